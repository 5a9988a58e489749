"""What outlives a process: durable writes, the brain root's layout, locks, the adapter store.

`durable.py` is the only module that replaces files, `layout.py` the only one that knows a path.
"""
