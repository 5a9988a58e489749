"""The embedded simulator: random closed tracks, a bicycle model, a front camera, an expert, named shifts."""
