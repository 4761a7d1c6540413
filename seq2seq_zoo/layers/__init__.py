"""The core: what the papers describe, each part once, for all families.

Nothing here knows a config, a checkpoint or a tokenizer; parts receive numbers and other parts. Read in this
order:

    activations, norms, feed_forward        small things
    positions, rotary, masks, prefix        what attention is told
    router, experts                         feed-forward blocks of which each token uses a part
    attention, state                        who looks at whom, and what is remembered between steps
    embedding, transformer, rotary_stack    from ids through a stack of layers
    ema, chunks                             MEGA's moving average; long sequences in pieces
    gated_attention, gated_layer            MEGA's attention, and its layer on the same stack
    linear                                  linear layers of few rows, on a CPU
    static                                  steps of decoding that a compiler can repeat
    heads                                   from hidden vectors to answers and losses

The words and the letters of the shapes are those of `seq2seq_zoo.glossary`.
"""
