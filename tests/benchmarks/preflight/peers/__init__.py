"""The same cases under other tools that look before training: one adapter a tool, one table."""
