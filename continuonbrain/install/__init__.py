"""Making a robot's computer run the brain at every start: account, folder, systemd units, device rules."""
