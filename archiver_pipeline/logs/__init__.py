"""Log lines: what the engine tells its listeners, as structured JSON for machines or text for people."""
