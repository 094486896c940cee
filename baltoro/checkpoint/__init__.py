"""config.json and sharded safetensors, bf16 and packed INT4, read and written in one place."""
