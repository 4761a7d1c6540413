"""The families, a file each: config, parts list, key map, public classes.

base                        what every public class can do: load, save, initialise, resize, write
arguments                   what a forward refuses, and what it returns
seq2seq, seq2seq_heads      the wiring of encoder-decoders, and their heads
lm_heads                    heads that score tokens, and decoders alone that write
decoding                    a decoder behind the protocol of generation

mt5, mvp                    two encoder-decoders
bert_generation             a stack that can be either half, and
encoder_decoder             any two halves joined
mega, mega_heads            gated attention over a moving average, and its heads
phimoe, phimoe_heads        a mixture of experts, and its heads

families, auto              which class a checkpoint's config.json asks for
"""
