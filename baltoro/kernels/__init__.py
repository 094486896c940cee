"""Each fast operation by name: native where it is built and supported, numpy reference otherwise."""
