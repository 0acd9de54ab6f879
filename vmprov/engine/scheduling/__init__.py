"""Steps as values, and how they are done: in parallel as far as the host has room, each one written down."""
