"""Fast operations: native where built and supported, numpy reference otherwise."""
