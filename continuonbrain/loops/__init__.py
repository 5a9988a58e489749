"""HOPE's loops: control (fast), policy process, sidecar (mid), supervisor, and the wire between them."""
