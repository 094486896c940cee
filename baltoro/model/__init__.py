"""The architecture in PyTorch, readable beside the paper: YaRN, latent attention, experts."""
