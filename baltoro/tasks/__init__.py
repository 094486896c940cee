"""Problems with checkable answers, one file each: examples, prompt, tools, verify."""
