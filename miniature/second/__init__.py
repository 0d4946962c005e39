"""The miniature's second edition: one or two objects, a text encoder pretrained as CLIP is and then frozen."""
