"""What leaves the robot, by its owner's choice: bundles of episodes and adapters for a bigger machine.

Nothing here opens a connection. A bundle is a file or a folder, and a person carries it.
"""
