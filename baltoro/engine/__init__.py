"""The native INT4 runtime: mapped weights, latent cache, scheduler, sampler."""
