"""What a deployment needs: memory, cores, disk and network by room, from a spec and a rate of pages."""
