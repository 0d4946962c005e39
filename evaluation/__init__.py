"""The paper's protocol for real models: pictures with and without AlignIT, scored with CLIP. See docs/evaluation.md."""
