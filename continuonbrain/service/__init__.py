"""The HTTP service on a Unix socket: what a brain does and has learned, for apps. Never in the control process."""
