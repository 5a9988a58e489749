"""Programs to read and to begin from. They stand on the whole house, not on this floor."""
