"""What people use beside the daemon: checks, previews, support bundle, templates."""
