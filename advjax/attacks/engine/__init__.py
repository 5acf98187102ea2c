"""What attacks are made of: calls of the network, batches, records, loops, and what is checked of inputs."""
