"""A conversation with a small mixture of experts, which adds and subtracts; and which experts did it.

python examples/chat_arithmetic.py
python examples/chat_arithmetic.py "Take 58 away from 27."
"""

import sys

from seq2seq_zoo import pipeline


def main(questions: list[str]) -> None:
    answer = pipeline("text-generation", "bundled:phimoe")
    messages: list[dict[str, str]] = []
    for question in questions:
        messages = answer([*messages, {"role": "user", "content": question}])[0]["generated_text"]
    for message in messages:
        print(f"{message['role']:>9}  {message['content']}")

    inputs = answer.tokenizer.apply_chat_template(messages, return_dict=True, return_tensors="pt")
    routers = answer.model(**inputs, output_router_logits=True).router_logits
    print("\nthe two experts of each layer that wrote the last answer:")
    # The token before the last message's text has written its beginning.
    begin = (inputs["input_ids"][0] == answer.tokenizer.convert_tokens_to_ids("<|assistant|>")).nonzero()[-1]
    for layer, scores in enumerate(routers):
        first, second = scores[begin].topk(2).indices[0].tolist()
        print(f"  layer {layer}  experts {first} and {second}")


if __name__ == "__main__":
    main(sys.argv[1:] or ["What is 27 + 58?", "Subtract 500 from 20."])
