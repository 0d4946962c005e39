"""Algorithm 1 of arXiv 2406.18893, line by line, and what a user can change of it.

- Lines 1 and 2, base and dummy prompt: `alignit.algorithm.prompts`.
- Line 3, the dummy prompt's conditioning: `alignit.algorithm.conditioning`.
- Line 4, its keys and values at the concept's index: `alignit.algorithm.injection`, of these parts: `rows` finds index
  i in a UNet's batch, `context` is at the UNet's entry, `projections` in its layers, with `hooks` below both.
- What a user can change of line 4: `controls`, `steps`. What it is compared with: `plain`.
"""
