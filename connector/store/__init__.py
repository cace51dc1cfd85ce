"""The store: tables, and one module per intent. Every SQL statement of the project lives here."""
