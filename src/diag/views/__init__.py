"""What people look at: tables, pictures, the report and the command line. Imports the core; nothing imports it."""
