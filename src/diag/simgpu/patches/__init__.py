"""simgpu.patches."""
