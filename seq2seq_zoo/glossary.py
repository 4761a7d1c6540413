"""One word for one thing: the vocabulary of this package, theirs → ours.

Letters of shapes, in docstrings and comments:

    B   rows of a batch                     D   width of the hidden vectors
    R   rows being written (beams count)    H   attention heads
    L   positions that ask (queries)        G   key-value heads
    S   positions that are asked (keys)     E   size of a head
    P   columns of a prefix prompt          F   width inside a feed-forward block
    N   layers of a stack                   V   tokens of the vocabulary

MODULES names every module of every model. A test holds the models against it, so that a second word for a
known thing does not slip in.
"""

from __future__ import annotations

MODULES: dict[str, str] = {
    # bodies
    "model": "a body inside a head's class: base_model, transformer",
    "encoder": "a stack that sees all positions",
    "decoder": "a stack that sees earlier positions, and a memory",
    "stack": "a body's only stack, in either role: embeddings and encoder",
    "layers": "a stack's layers: block, layer",
    # the way in
    "token_embedding": "the token vectors that stacks share: shared",
    "embedding": "a stack's input embedding; in a prompt, its learnt vectors: prompt_embedding",
    "tokens": "token vectors: embed_tokens, word_embeddings",
    "token_types": "vectors of the kinds of tokens: token_type_embeddings",
    "positions": "learnt position vectors: embed_positions, position_embeddings",
    "position_bias": "bias by distance: relative_attention_bias",
    # a layer's blocks
    "self_attention": "self_attn, SelfAttention, layer.0",
    "cross_attention": "encoder_attn, EncDecAttention, crossattention",
    "feed_forward": "fc1 and fc2, DenseReluDense, intermediate and output",
    # inside attention
    "query": "q_proj, q",
    "key": "k_proj, k",
    "value": "v_proj, v",
    "distances": "vectors by distance, compared with queries and keys: distance_embedding",
    "output": "what leads back to the width, or to the answers: out_proj, o, o_proj, output.dense",
    # inside gated attention
    "moving_average": "damped averages of what stands around: ema_gate",
    "shared": "what queries and keys are both made of: a part of mx_proj",
    "update_gate": "how much of a position is replaced: residual_weight, a part of mx_proj or q_proj",
    "reset_gate": "how much of what attention brings is used: a part of mx_proj or q_proj",
    "candidate": "what a position may be replaced by, before attention: a part of mx_proj",
    "distance_bias": "numbers by distance, added to scores: rel_pos_bias",
    "value_dropout": "of the values: hidden_dropout",
    # inside a feed-forward block, and a prompt's perceptron
    "up": "to the inner width: fc1, wi, wi_1, w3, prompt_trans.0",
    "gate": "to the inner width, through the activation: wi_0, w1",
    "down": "back: fc2, wo, w2, prompt_trans.2",
    # inside a mixture of experts
    "router": "chooses the experts of a token",
    "scores": "of the experts: block_sparse_moe.gate, mlp.router",
    "experts": "stacks of their matrices, with the parts of a feed-forward block: experts.0, experts.1 …",
    # norms, each named after what it belongs to
    "norm": "of an input embedding: layernorm_embedding",
    "self_attention_norm": "self_attn_layer_norm, layer.0.layer_norm",
    "cross_attention_norm": "encoder_attn_layer_norm, layer.1.layer_norm",
    "feed_forward_norm": "final_layer_norm of a layer, layer.2.layer_norm",
    "final_norm": "of a stack: final_layer_norm",
    # prompts
    "self_prompt": "self_attn_prompt",
    "cross_prompt": "cross_attn_prompt",
    # between two stacks
    "enc_to_dec_proj": "from the encoder's width to the decoder's",
    # heads
    "lm_head": "scores of tokens: lm_head",
    "classification_head": "scores of a text's labels: classification_head, classifier, score",
    "token_head": "scores of each token's labels: classifier",
    "span_head": "scores of an answer's ends: qa_outputs",
    "choice_head": "the score of one of several texts: classifier",
    "pooler": "a summary of a text, from its first position: pooler.dense",
    "hidden": "the layer inside a head: dense",
    # what has no parameters
    "dropout": "everywhere",
}
