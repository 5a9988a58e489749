"""What does on-device learning give? Ways of learning, compared on the simulator's shifts."""
