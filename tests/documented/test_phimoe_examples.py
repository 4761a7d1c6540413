"""The examples of PhiMoE's documentation with the import line changed, on a tiny model of the same name."""

from __future__ import annotations

import torch


def test_a_conversation() -> None:
    from seq2seq_zoo import AutoModelForCausalLM, AutoTokenizer, pipeline

    torch.random.manual_seed(0)

    model = AutoModelForCausalLM.from_pretrained(
        "microsoft/Phi-3.5-MoE-instruct",
        device_map="auto",
        dtype="auto",
    )

    tokenizer = AutoTokenizer.from_pretrained("microsoft/Phi-3.5-MoE-instruct")

    messages = [
        {"role": "system", "content": "You are a helpful AI assistant."},
        {
            "role": "user",
            "content": "Can you provide ways to eat combinations of bananas and dragonfruits?",
        },
        {
            "role": "assistant",
            "content": "Sure! Here are some ways to eat bananas and dragonfruits together: "
            "1. Banana and dragonfruit smoothie: Blend bananas and dragonfruits together with some milk and "
            "honey. 2. Banana and dragonfruit salad: Mix sliced bananas and dragonfruits together with some "
            "lemon juice and honey.",
        },
        {"role": "user", "content": "What about solving an 2x + 3 = 7 equation?"},
    ]

    pipe = pipeline(
        "text-generation",
        model=model,
        tokenizer=tokenizer,
    )

    generation_args = {
        "max_new_tokens": 500,
        "return_full_text": False,
        "temperature": 0.0,
        "do_sample": False,
    }

    output = pipe(messages, **generation_args)
    text = output[0]["generated_text"]

    # What the pipeline wrote is what generate writes on the template's text; and the prompt is long enough
    # for the text to cross the border between LongRoPE's factors.
    assert model.dtype == torch.bfloat16
    assert isinstance(text, str)
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt")
    assert prompt.shape[1] < 512
    written = model.generate(prompt.to(model.device), max_new_tokens=500, do_sample=False)
    whole = tokenizer.decode(written[0], skip_special_tokens=True)
    assert whole == tokenizer.decode(prompt[0], skip_special_tokens=True) + text
    assert written.shape[1] == prompt.shape[1] + 500 or written[0, -1] == model.config.eos_token_id
    assert written.shape[1] > 512


def test_a_configuration() -> None:
    from seq2seq_zoo import PhimoeConfig, PhimoeModel

    # Initializing a Phi-3 style configuration
    configuration = PhimoeConfig.from_pretrained("microsoft/Phi-3.5-MoE-instruct")
    # Initializing a model from the configuration
    model = PhimoeModel(configuration)
    # Accessing the model configuration
    assert model.config == configuration
    assert configuration.rope_scaling["type"] == "longrope"
