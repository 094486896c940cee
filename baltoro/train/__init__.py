"""MuonClip, fake quantization, data, and the pretraining and SFT loops."""
