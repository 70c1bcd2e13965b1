"""mlx-lm's BatchGenerator under the common load."""

import mlx.core as mx
from mlx_lm.generate import BatchGenerator
from mlx_lm.utils import load_model, load_tokenizer

import load


class Engine:
    def __init__(self, folder):
        self.model, _ = load_model(folder)
        mx.eval(self.model.parameters())
        self.tokenizer = load_tokenizer(folder)

    def encode(self, text):
        return self.tokenizer.encode(text, add_special_tokens=False)

    def decode(self, ids):
        return self.tokenizer.decode(ids)

    def generate(self, prompts, max_tokens):
        generator = BatchGenerator(
            self.model,
            max_tokens=max_tokens,
            completion_batch_size=len(prompts),
            prefill_batch_size=min(8, len(prompts)),
        )
        places = {uid: place for place, uid in enumerate(generator.insert(prompts))}
        answers = [[] for _ in prompts]
        while responses := generator.next_generated():
            for response in responses:
                answers[places[response.uid]].append(int(response.token))
        generator.close()
        return answers


if __name__ == "__main__":
    chosen = load.arguments()
    load.measure(Engine(chosen.model), chosen)
