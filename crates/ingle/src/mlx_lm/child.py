# SPDX-License-Identifier: EUPL-1.2
"""The child of Ingle's backend `mlx_lm`: one model on mlx-lm, asked and answering in JSON, one object a line.

A command has `do` and the `id` that its events bear; an event has `event` and that `id`. Standard output belongs to the
protocol alone. The end of standard input is the end of the parent, and of this process.
"""

import json
import math
import os
import queue
import signal
import sys
import threading
import time
import traceback

# Tokens of a prompt computed between two signs of life.
PREFILL_STEP = 512
# Bytes of logits that one batch of texts to classify may give.
LOGITS_BYTES = 256 << 20
# Bytes of weights read between two signs of life.
LOAD_STEP = 256 << 20
# Seconds between two reports of metrics while there is work.
REPORT_EVERY = 0.25
# Penalties look at everything that was said.
EVERYTHING = 1 << 30
# What ends a turn, by the names that are common among models.
TURN_ENDERS = ["<end_of_turn>", "<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end|>", "<｜end▁of▁sentence｜>"]


class Wire:
    """The protocol's way out. Whatever else prints goes to standard error."""

    def __init__(self):
        self.file = os.fdopen(os.dup(1), "wb")
        os.dup2(2, 1)
        sys.stdout = sys.stderr
        self.lock = threading.Lock()

    def send(self, event, id=None, **fields):
        if id is not None:
            fields["id"] = id
        line = json.dumps({"event": event, **fields}, allow_nan=False).encode() + b"\n"
        with self.lock:
            try:
                self.file.write(line)
                self.file.flush()
            except OSError:
                # Nobody is left to tell.
                os._exit(0)

    def fail(self, id, error):
        traceback.print_exception(type(error), error, error.__traceback__)
        words = str(error) if isinstance(error, Refused) else f"{type(error).__name__}: {error}"
        self.send("error", id, message=" ".join(words.split()))


class Refused(Exception):
    """What cannot be done, in words for people."""


def die_with_parent():
    """Ctrl-C is the parent's to handle; a parent that is killed takes this process along."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        try:
            import ctypes

            ctypes.CDLL(None).prctl(1, signal.SIGKILL)
        except (ImportError, OSError, AttributeError):
            # The end of standard input tells as well, only later.
            pass


def listen(wire, inbox, model):
    """Reads commands. What needs only the tokeniser is answered here, while the model computes."""
    for line in sys.stdin.buffer:
        command = json.loads(line)
        answer = {"encode": encode, "render": render, "piece": piece}.get(command["do"])
        if answer is None:
            inbox.put(command)
            continue
        try:
            event, fields = answer(model.tokenizer, command)
            wire.send(event, command["id"], **fields)
        except Exception as error:
            wire.fail(command["id"], error)
    os._exit(0)


def encode(tokenizer, command):
    def ids(text):
        if command["special"] == "literal":
            return tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
        begun = tokenizer.bos_token is not None and text.startswith(tokenizer.bos_token)
        return tokenizer.encode(text, add_special_tokens=command["special"] == "add" and not begun)

    return "encoded", {"tokens": [ids(text) for text in command["texts"]]}


def render(tokenizer, command):
    if not tokenizer.has_chat_template:
        raise Refused("the model has no chat template; use generate, or add one to its tokenizer_config.json")
    text = tokenizer.apply_chat_template(command["messages"], add_generation_prompt=True, tokenize=False)
    return "encoded", {"tokens": [tokenizer.encode(text, add_special_tokens=False)]}


def piece(tokenizer, command):
    return "piece", {"piece": tokenizer.convert_ids_to_tokens(command["token"])}


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


class Model:
    """The model, its requests and what they have taken."""

    def __init__(self, wire, inbox):
        self.wire, self.inbox = wire, inbox
        self.tokenizer = None
        self.jobs = []
        self.memory_limit = None
        self.cache_limit = None
        self.reported = 0.0
        self.counts = dict.fromkeys(
            ["prompt_tokens", "generated_tokens", "prefilled_tokens", "decoded_tokens", "steps"], 0
        )
        self.prefill_time = self.decode_time = 0.0

    def load(self, command):
        import_mlx()
        id, path = command["id"], command["path"]
        model, tokenizer, config = mlx_lm.load(path, lazy=True, return_config=True)
        if command["dtype"] is not None:
            model.set_dtype({"f32": mx.float32, "bf16": mx.bfloat16, "f16": mx.float16}[command["dtype"]])
        weights = [weight for _, weight in tree_flatten(model.parameters())]
        total = sum(weight.nbytes for weight in weights)
        self.set_memory_limit(command["memory_limit"])
        if self.memory_limit is not None and total > self.memory_limit:
            raise Refused(f"the weights take {total} bytes, the memory limit is {self.memory_limit}")
        pending, loaded = [], 0
        for index, weight in enumerate(weights):
            pending.append(weight)
            if sum(weight.nbytes for weight in pending) >= LOAD_STEP or index + 1 == len(weights):
                mx.eval(pending)
                loaded += sum(weight.nbytes for weight in pending)
                pending = []
                self.wire.send("loading", id, loaded_bytes=loaded, total_bytes=total)
        self.model = model
        # Lazy: only the shape is computed.
        self.vocab_size = model(mx.array([[0]])).shape[-1]
        self.can_batch = all(hasattr(layer, "merge") for layer in make_prompt_cache(model))
        self.eos = set(tokenizer.eos_token_ids)
        vocabulary = tokenizer.get_vocab()
        enders = [tokenizer.init_kwargs.get("eot_token"), *TURN_ENDERS]
        self.end_of_turn = self.eos | {vocabulary[name] for name in enders if name in vocabulary}
        self.renew()
        self.tokenizer = tokenizer
        self.wire.send("ready", id, **self.describe(config, weights, total))
        self.report(REPORT_EVERY)

    def describe(self, config, weights, total):
        inner = config.get("text_config") or {}

        def first(*names):
            found = [source[name] for name in names for source in (config, inner) if source.get(name)]
            found += [getattr(self.model.args, name) for name in names if getattr(getattr(self.model, "args", None), name, None)]
            return next((value for value in found if isinstance(value, int)), None)

        floats = {}
        for weight in weights:
            name = {mx.float32: "f32", mx.bfloat16: "bf16", mx.float16: "f16"}.get(weight.dtype)
            floats[name] = floats.get(name, 0) + weight.nbytes
        floats.pop(None, None)
        return {
            "python": sys.executable,
            "mlx_lm": mlx_lm.__version__,
            "mlx": mx.__version__,
            "architecture": config.get("model_type", "unknown"),
            "vocab_size": self.vocab_size,
            "layers": len(self.model.layers),
            "hidden_size": first("hidden_size", "d_model", "n_embd", "dim", "model_dim") or 0,
            "parameters": int(mlx_lm.utils.get_total_parameters(self.model)),
            "weight_bytes": total,
            "dtype": max(floats, key=floats.get, default="f32"),
            "quantisation": quantisation(config),
            "context_length": first(
                "max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length", "seq_length", "n_ctx"
            ),
            "chat_template": bool(self.tokenizer.has_chat_template),
        }

    def renew(self):
        self.answers = Together(self.model) if self.can_batch else InTurn(self.model)

    def serve(self):
        while True:
            self.take_commands()
            try:
                self.keep_to_memory()
                if self.answers.answers:
                    self.step()
            except Exception as error:
                failed = list(self.answers.answers.values())
                self.renew()
                for answer in failed:
                    self.wire.fail(answer.id, error)
            if self.jobs:
                self.score()
            self.report(time.monotonic() - self.reported)

    def take_commands(self):
        while True:
            idle = not self.answers.answers and not self.jobs
            if idle:
                # The last words before a rest.
                self.report(REPORT_EVERY)
            try:
                command = self.inbox.get(block=idle)
            except queue.Empty:
                return
            try:
                getattr(self, f"do_{command['do']}")(command)
            except Exception as error:
                self.wire.fail(command["id"], error)

    def do_generate(self, command):
        answer = Answer(command, self)
        self.answers.add(answer)
        self.counts["prompt_tokens"] += len(answer.prompt)

    def do_cancel(self, command):
        self.answers.remove(command["id"])
        self.jobs = [job for job in self.jobs if job["id"] != command["id"]]

    def do_score(self, command):
        self.jobs.append(command)

    do_top = do_logits = do_score

    def do_set_memory_limit(self, command):
        self.set_memory_limit(command["bytes"])

    def do_set_cache_limit(self, command):
        previous = mx.set_cache_limit(self.default_cache_limit() if command["bytes"] is None else command["bytes"])
        if self.cache_limit is None:
            self.cache_limit = previous

    def default_cache_limit(self):
        if self.cache_limit is None:
            # MLX tells the limit only to whoever sets another.
            self.cache_limit = mx.set_cache_limit(0)
        return self.cache_limit

    def do_clear_cache(self, command):
        mx.clear_cache()
        self.report(REPORT_EVERY)
        self.wire.send("done", command["id"])

    def set_memory_limit(self, limit):
        self.memory_limit = limit

    def keep_to_memory(self):
        if self.memory_limit is not None and mx.get_active_memory() > self.memory_limit:
            active = mx.get_active_memory()
            raise Refused(f"{active} bytes of memory are in use, the memory limit is {self.memory_limit}")

    def step(self):
        began = time.monotonic()
        progress, found = self.answers.step()
        prefilled = 0
        for answer, done in progress:
            prefilled += max(done - answer.progress, 0)
            answer.progress = max(done, answer.progress)
            self.wire.send("progress", answer.id)
        decoded, events = 0, []
        for answer, token, is_last in found:
            decoded += answer.generated > 0
            try:
                fields = answer.take(token, is_last)
                events.append((answer, fields))
            except Exception as error:
                self.answers.remove(answer.id)
                self.wire.fail(answer.id, error)
                continue
            if "finish" in fields:
                self.answers.remove(answer.id)
        self.counts["generated_tokens"] += len(found)
        self.count(prefilled, decoded, time.monotonic() - began)
        if any("finish" in fields for _, fields in events):
            # Whoever sees the end of an answer finds it counted.
            self.report(REPORT_EVERY)
        for answer, fields in events:
            self.wire.send("token", answer.id, **fields)

    def count(self, prefilled, decoded, elapsed):
        share = decoded / max(prefilled + decoded, 1)
        self.counts["steps"] += 1
        self.counts["prefilled_tokens"] += prefilled
        self.counts["decoded_tokens"] += decoded
        self.decode_time += elapsed * share
        self.prefill_time += elapsed * (1 - share)

    def score(self):
        """Computes as many of the texts that wait as fit into one forward pass, or a long one alone, in chunks."""
        began = time.monotonic()
        self.keep_to_memory_or_fail()
        batch = self.next_batch()
        if batch:
            computed = self.compute_batch(batch)
        elif self.jobs:
            job = self.jobs.pop(0)
            batch = rows_wanted(job)
            computed = self.compute_alone(job, batch)
        else:
            return
        tokens = sum(len(ids) for _, ids, _ in batch)
        self.counts["prompt_tokens"] += tokens
        self.count(tokens, 0, time.monotonic() - began)
        self.report(REPORT_EVERY)
        for job, rows in computed:
            self.conclude(job, rows)

    def next_batch(self):
        """Takes the texts that one forward pass can hold; none if the next is too long for any."""
        batch = []
        while self.jobs and self.jobs[0]["do"] != "logits":
            more = batch + rows_wanted(self.jobs[0])
            width = max(len(ids) for _, ids, _ in more)
            if len(more) * width * self.vocab_size * 4 > LOGITS_BYTES:
                break
            self.jobs.pop(0)
            batch = more
        return batch

    def keep_to_memory_or_fail(self):
        try:
            self.keep_to_memory()
        except Refused as error:
            failed, self.jobs = self.jobs, []
            for job in failed:
                self.wire.fail(job["id"], error)

    def compute_batch(self, batch):
        width = max(len(ids) for _, ids, _ in batch)
        padded = mx.array([ids + [0] * (width - len(ids)) for _, ids, _ in batch])
        jobs = {}
        try:
            # What is behind a text cannot be seen from within it: these models look back only.
            logits = self.model(padded)
            mx.eval(logits)
            for index, (job, ids, first) in enumerate(batch):
                jobs.setdefault(job["id"], (job, []))[1].append(normalised(logits[index, first : len(ids)]))
        except Exception as error:
            for id in {job["id"] for job, _, _ in batch}:
                self.wire.fail(id, error)
            return []
        return list(jobs.values())

    def compute_alone(self, job, entries):
        chunks = [self.chunks(job["id"], ids, first) for _, ids, first in entries]
        if job["do"] == "logits":
            # As they come: all together may be too many to hold.
            return [(job, chunks[0])]
        try:
            return [(job, [mx.concatenate([normalised(chunk) for chunk in text]) for text in chunks])]
        except Exception as error:
            self.wire.fail(job["id"], error)
            return []

    def chunks(self, id, ids, first):
        """Logits of a long text from a position on, a few rows at a time."""
        cache = make_prompt_cache(self.model)
        for begin in range(0, len(ids), PREFILL_STEP):
            chunk = ids[begin : begin + PREFILL_STEP]
            logits = self.model(mx.array([chunk]), cache=cache)[0]
            wanted = logits[max(first - begin, 0) :]
            mx.eval([layer.state for layer in cache], *([wanted] if wanted.shape[0] else []))
            self.wire.send("progress", id)
            if wanted.shape[0]:
                yield wanted

    def conclude(self, job, rows):
        """Answers a job from the log-probabilities of its rows."""
        try:
            if job["do"] == "logits":
                for row in (row for chunk in rows for row in chunk.astype(mx.float32).tolist()):
                    self.wire.send("logits", job["id"], row=[number(value) for value in row])
                self.wire.send("done", job["id"])
                return
            if job["do"] == "top":
                top = likeliest(rows[0][-1], job["count"])
                pieces = self.tokenizer.convert_ids_to_tokens([id for id, _ in top])
                self.wire.send("top", job["id"], tokens=[(id, piece or "", lp) for (id, lp), piece in zip(top, pieces)])
                return
            first, sequences = job["from"], job["sequences"]
            if shares_one_row(job):
                sums = rows[0][-1][mx.array([sequence[first] for sequence in sequences])].tolist()
            else:
                sums = [
                    sum(mx.take_along_axis(row, mx.array(sequence[first:])[:, None], axis=-1)[:, 0].tolist())
                    for row, sequence in zip(rows, sequences)
                ]
            self.wire.send("scores", job["id"], logprobs=[number(value) for value in sums])
        except Exception as error:
            self.wire.fail(job["id"], error)

    def report(self, elapsed):
        if elapsed < REPORT_EVERY:
            return
        self.reported = time.monotonic()
        running = len(self.answers.answers)
        self.wire.send(
            "metrics",
            **self.counts,
            prefill_seconds=self.prefill_time,
            decode_seconds=self.decode_time,
            running=running,
            waiting=len(self.jobs),
            active=mx.get_active_memory(),
            peak=mx.get_peak_memory(),
            cached=mx.get_cache_memory(),
        )


def shares_one_row(job):
    """Whether all sequences are one text and one token each: then one row scores them all."""
    return all(len(sequence) == job["from"] + 1 for sequence in job["sequences"])


def rows_wanted(job):
    """What to compute for a job: ids, and the first position whose row is wanted."""
    if job["do"] == "logits":
        return [(job, job["tokens"], job["from"])]
    if job["do"] == "top":
        return [(job, job["tokens"], len(job["tokens"]) - 1)]
    first = job["from"]
    if shares_one_row(job):
        return [(job, job["sequences"][0][:first], first - 1)]
    # The last token predicts nothing that is asked for.
    return [(job, sequence[:-1], first - 1) for sequence in job["sequences"]]


def quantisation(config):
    """How the weights are quantised, in words; None if they are not."""
    found = config.get("quantization") or config.get("quantization_config")
    if not isinstance(found, dict):
        return None
    words = []
    if found.get("bits"):
        words.append(f"{found['bits']}-bit")
    if found.get("group_size"):
        words.append(f"groups of {found['group_size']}")
    mode = found.get("mode") or found.get("quant_method")
    if mode and mode != "affine":
        words.append(mode)
    return ", ".join(words) or "of an unnamed kind"


def import_mlx():
    """Imports mlx-lm into this module's names, late, so that its absence can be told."""
    global mx, mlx_lm, generate, sample_utils, make_prompt_cache, tree_flatten
    try:
        import mlx.core as mx
        import mlx_lm
        from mlx.utils import tree_flatten
        from mlx_lm import sample_utils
        from mlx_lm.models.cache import make_prompt_cache
    except ImportError as error:
        raise Refused(f"{sys.executable}: {error}; install it with `{sys.executable} -m pip install mlx-lm`") from error
    # The package has a function of the module's name.
    generate = sys.modules["mlx_lm.generate"]


def main():
    die_with_parent()
    wire, inbox = Wire(), queue.SimpleQueue()
    model = Model(wire, inbox)
    threading.Thread(target=listen, args=(wire, inbox, model), daemon=True).start()
    command = inbox.get()
    try:
        model.load(command)
    except BaseException as error:
        wire.fail(command["id"], error)
        sys.stderr.flush()
        os._exit(1)
    model.serve()


main()
