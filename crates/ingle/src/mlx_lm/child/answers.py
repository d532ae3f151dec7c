# SPDX-License-Identifier: EUPL-1.2
# How answers are chosen, told and computed together. Part of one program: see protocol.py.


class Text:
    """The text of tokens as they come, where they stand after the prompt: whole characters only."""

    def __init__(self, tokenizer, prompt):
        self.tokenizer = tokenizer
        self.tokens = prompt[-6:]
        self.told = 0
        self.seen = len(self.tokens)

    def decode(self, tokens):
        return self.tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def rest(self):
        return self.decode(self.tokens[self.told :])[len(self.decode(self.tokens[self.told : self.seen])) :]

    def push(self, token):
        self.tokens.append(token)
        text = self.rest()
        if not text or text.endswith("\ufffd"):
            return ""
        self.told, self.seen = self.seen, len(self.tokens)
        return text


class Answer:
    """One request to generate: how its tokens are chosen, and what became of it."""

    def __init__(self, command, model):
        self.id = command["id"]
        self.prompt = command["prompt"]
        self.max_tokens = command["max_tokens"]
        self.stop = {"none": set(), "sequence": model.eos, "turn": model.end_of_turn}[command["end"]]
        self.top = command["top_logprobs"]
        self.text = Text(model.tokenizer, self.prompt)
        self.progress = 0
        self.generated = 0
        self.unmodified = []
        self.sampler = sampler(command["sampling"], model.vocab_size)
        self.processors = processors(command["sampling"], len(self.prompt))
        if self.top is not None:
            self.processors.insert(0, self.keep_unmodified)

    def keep_unmodified(self, _, logits):
        self.unmodified.append(logits.reshape(-1))
        return logits

    def take(self, token, is_last):
        """The fields of the next token's event."""
        self.generated += 1
        fields = {"token": token}
        if token in self.stop:
            fields["text"], fields["finish"] = self.text.rest(), "stop"
        else:
            fields["text"] = self.text.push(token)
            if is_last:
                fields["text"] += self.text.rest()
                fields["finish"] = "length"
        if self.top is not None:
            fields["logprobs"] = self.logprobs(token)
        return fields

    def logprobs(self, token):
        row = normalised(self.unmodified.pop(0))
        return {"chosen": number(row[token].item()), "top": likeliest(row, self.top)}


def sampler(options, vocab_size):
    """Ingle's order of filters from mlx-lm's filters; the draws depend on the request's own seed. None for greedy."""
    if options["temperature"] == 0:
        return None
    # A smaller one overflows, and leaves nothing but the likeliest all the same.
    temperature = max(options["temperature"], 1e-30)
    state = [mx.random.key(options["seed"])]

    def sample(logprobs):
        logits = logprobs.astype(mx.float32)
        logits = normalised((logits - logits.max(axis=-1, keepdims=True)) / temperature)
        if options["top_p"] < 1:
            logits = sample_utils.apply_top_p(logits, options["top_p"])
        if 0 < options["top_k"] < vocab_size:
            logits = sample_utils.apply_top_k(logits, options["top_k"])
        if options["min_p"] > 0:
            logits = sample_utils.apply_min_p(logits, options["min_p"])
        state[0], key = mx.random.split(state[0])
        return mx.random.categorical(logits, key=key)

    return sample


def processors(options, prompt_length):
    """mlx-lm's bias and penalties: repetition over prompt and answer, presence and frequency over the answer."""
    bias = {id: -math.inf if value is None else value for id, value in options["logit_bias"]}
    repetition = options["repetition_penalty"]
    chain = sample_utils.make_logits_processors(
        logit_bias=bias or None,
        repetition_penalty=None if repetition == 1 else repetition,
        repetition_context_size=EVERYTHING,
    )

    def of_the_answer(processor):
        return lambda tokens, logits: processor(tokens[prompt_length:], logits)

    if options["presence_penalty"] != 0:
        chain.append(of_the_answer(sample_utils.make_presence_penalty(options["presence_penalty"], EVERYTHING)))
    if options["frequency_penalty"] != 0:
        chain.append(of_the_answer(sample_utils.make_frequency_penalty(options["frequency_penalty"], EVERYTHING)))
    return chain


def normalised(logits):
    """Log-probabilities, in f32."""
    logits = logits.astype(mx.float32)
    return logits - mx.logsumexp(logits, axis=-1, keepdims=True)


def number(value):
    """A number as JSON has it: none is minus infinity."""
    if math.isnan(value) or value == math.inf:
        raise Refused("the model gives logits that are no numbers; check the weights, or load with dtype f32")
    return None if value == -math.inf else value


def likeliest(row, count):
    """Ids and log-probabilities of the likeliest tokens; ties go to the lower id."""
    count = min(count, row.size)
    if count == 0:
        return []
    ids = mx.argpartition(-row, kth=count - 1)[:count] if count < row.size else mx.arange(row.size)
    pairs = sorted(zip(ids.tolist(), row[ids].tolist()), key=lambda pair: (-pair[1], pair[0]))
    return [(id, number(logprob)) for id, logprob in pairs]


class Together:
    """Answers computed together, in mlx-lm's continuous batch."""

    def __init__(self, model):
        self.generator = generate.BatchGenerator(model, prefill_step_size=PREFILL_STEP)
        self.answers = {}

    def add(self, answer):
        (uid,) = self.generator.insert(
            [answer.prompt],
            [answer.max_tokens],
            samplers=[answer.sampler],
            logits_processors=[answer.processors],
        )
        self.answers[uid] = answer

    def remove(self, id):
        for uid in [uid for uid, answer in self.answers.items() if answer.id == id]:
            self.generator.remove([uid])
            del self.answers[uid]

    def step(self):
        """Prompt tokens done by each answer, and each answer's next token."""
        prompts, tokens = self.generator.next()
        progress = [(self.answers[r.uid], r.progress[0]) for r in prompts if r.uid in self.answers]
        found = []
        for response in tokens:
            answer = self.answers[response.uid]
            found.append((answer, response.token, response.finish_reason is not None))
            if response.finish_reason is not None:
                del self.answers[response.uid]
        return progress, found


class InTurn:
    """Answers one token each in turn: for models whose caches mlx-lm cannot batch."""

    def __init__(self, model):
        self.model = model
        self.answers = {}

    def add(self, answer):
        answer.steps = generate.generate_step(
            mx.array(answer.prompt),
            self.model,
            max_tokens=answer.max_tokens,
            sampler=answer.sampler,
            logits_processors=answer.processors or None,
            prefill_step_size=PREFILL_STEP,
        )
        self.answers[answer.id] = answer

    def remove(self, id):
        self.answers.pop(id, None)

    def step(self):
        progress, found = [], []
        for answer in list(self.answers.values()):
            token, _ = next(answer.steps)
            is_last = answer.generated + 1 >= answer.max_tokens
            progress.append((answer, len(answer.prompt)))
            found.append((answer, int(token), is_last))
            if is_last:
                del self.answers[answer.id]
        return progress, found
