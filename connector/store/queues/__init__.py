"""Tables that lanes claim from: outbox, reads, profiles, memberships, actions."""
