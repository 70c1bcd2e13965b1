"""llama.cpp under the common load, by its C interface: its Python server computes one request at a time, so the batch is decoded
here as llama.cpp's own batch benchmark does, one llama_decode for a step of all sequences."""

import ctypes

import llama_cpp as llama
import numpy

import load

STEP_TOKENS = 512
"""Most prompt tokens of one llama_decode; llama.cpp's own default for a micro batch."""


class Engine:
    def __init__(self, file, threads, sequences, sequence_tokens):
        llama.llama_backend_init()
        self.silence = llama.llama_log_callback(lambda level, text, data: None)
        llama.llama_log_set(self.silence, ctypes.c_void_p(0))
        self.model = llama.llama_model_load_from_file(str(file).encode(), llama.llama_model_default_params())
        options = llama.llama_context_default_params()
        options.n_threads = options.n_threads_batch = threads
        options.n_seq_max = sequences
        options.n_ctx = sequences * sequence_tokens
        options.n_batch = options.n_ubatch = STEP_TOKENS
        options.kv_unified = False
        self.context = llama.llama_init_from_model(self.model, options)
        self.vocabulary = llama.llama_model_get_vocab(self.model)
        self.width = llama.llama_vocab_n_tokens(self.vocabulary)
        self.batch = llama.llama_batch_init(STEP_TOKENS, 0, 1)

    def encode(self, text):
        raw = text.encode()
        ids = (llama.llama_token * (len(raw) + 8))()
        count = llama.llama_tokenize(self.vocabulary, raw, len(raw), ids, len(ids), False, False)
        return list(ids[:count])

    def decode(self, ids):
        pieces = []
        for token in ids:
            piece = ctypes.create_string_buffer(256)
            length = llama.llama_token_to_piece(self.vocabulary, token, piece, len(piece), 0, True)
            pieces.append(piece.raw[:length])
        return b"".join(pieces).decode(errors="replace")

    def step(self, rows):
        """Computes rows of (id, position, sequence, wanted) and returns the greedy id of each wanted row's sequence."""
        batch = self.batch
        for place, (token, position, sequence, wanted) in enumerate(rows):
            batch.token[place] = token
            batch.pos[place] = position
            batch.n_seq_id[place] = 1
            batch.seq_id[place][0] = sequence
            batch.logits[place] = wanted
        batch.n_tokens = len(rows)
        status = llama.llama_decode(self.context, batch)
        if status != 0:
            raise RuntimeError(f"llama_decode returned {status}")
        chosen = {}
        for place, (_, _, sequence, wanted) in enumerate(rows):
            if wanted:
                logits = llama.llama_get_logits_ith(self.context, place)
                chosen[sequence] = int(numpy.ctypeslib.as_array(logits, shape=(self.width,)).argmax())
        return chosen

    def generate(self, prompts, max_tokens):
        llama.llama_memory_clear(llama.llama_get_memory(self.context), True)
        rows = [
            (token, position, sequence, position + 1 == len(prompt))
            for sequence, prompt in enumerate(prompts)
            for position, token in enumerate(prompt)
        ]
        last = {}
        for start in range(0, len(rows), STEP_TOKENS):
            last.update(self.step(rows[start : start + STEP_TOKENS]))
        answers = [[last[sequence]] for sequence in range(len(prompts))]
        for step in range(1, max_tokens):
            rows = [
                (answer[-1], len(prompt) + step - 1, sequence, True)
                for sequence, (prompt, answer) in enumerate(zip(prompts, answers))
            ]
            for sequence, token in self.step(rows).items():
                answers[sequence].append(token)
        return answers


if __name__ == "__main__":
    chosen = load.arguments()
    most = max(chosen.concurrency)
    load.measure(Engine(chosen.model, chosen.threads, most, 1024), chosen)
