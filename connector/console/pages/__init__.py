"""The pages. Each module has the routes of one page and its `routes`."""
