"""One file a paper table, each with a ``TABLE: TableSpec``."""
