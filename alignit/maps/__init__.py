"""Attention maps: where in the picture the cross-attention looked at a word of the prompt (Figure 5 of the paper).

A cross-attention layer l gives each place x of the picture and each token t of the prompt, at a step s, the probability

    A[l, s, x, t] = 1/H sum over the H heads h of softmax over t of (Q_h[x] . K_h[t] / sqrt(d))

with d the width of a head. K are the keys with which the picture is made: where concepts are injected, K'[i] of
Algorithm 1 (arXiv 2406.18893) is among them. The map of a token is the mean of A over layers and steps, and that of a
word the mean over its tokens.

`words` says of which words, and where these stand among tokens; `recorder` records A in hooks; `result` holds what was
recorded, and makes maps of it; `pictures` draws them.
"""
