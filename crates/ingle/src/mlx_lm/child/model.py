# SPDX-License-Identifier: EUPL-1.2
# The model and its requests. Part of one program: see protocol.py.


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
        cache = make_prompt_cache(model)
        self.can_batch = all(hasattr(layer, "merge") for layer in cache)
        # Lazy: only shapes are computed.
        self.vocab_size = model(mx.array([[0]]), cache=cache).shape[-1]
        kept = [array for layer in cache for array in keys_and_values(layer)]
        self.eos = set(tokenizer.eos_token_ids)
        vocabulary = tokenizer.get_vocab()
        enders = [tokenizer.init_kwargs.get("eot_token"), *TURN_ENDERS]
        self.end_of_turn = self.eos | {vocabulary[name] for name in enders if name in vocabulary}
        self.renew()
        self.tokenizer = tokenizer
        # Whoever has the model finds the memory that it takes.
        self.report(REPORT_EVERY)
        self.wire.send("ready", id, **self.describe(config, weights, kept))

    def describe(self, config, weights, kept):
        inner = config.get("text_config") or {}

        def first(*names):
            found = [source[name] for name in names for source in (config, inner) if source.get(name)]
            found += [getattr(self.model.args, name) for name in names if getattr(getattr(self.model, "args", None), name, None)]
            return next((value for value in found if isinstance(value, int)), None)

        floats = {}
        for weight in weights:
            if weight.dtype in FLOATS:
                name = FLOATS[weight.dtype]
                floats[name] = floats.get(name, 0) + weight.nbytes
        dtype = max(floats, key=floats.get, default="f32")
        return {
            "python": sys.executable,
            "mlx_lm": mlx_lm.__version__,
            "mlx": mx.__version__,
            "architecture": config.get("model_type", "unknown"),
            "vocab_size": self.vocab_size,
            "layers": len(self.model.layers),
            "hidden_size": first("hidden_size", "d_model", "n_embd", "dim", "model_dim") or 0,
            "parameters": int(mlx_lm.utils.get_total_parameters(self.model)),
            "weight_bytes": sum(weight.nbytes for weight in weights),
            "dtype": dtype,
            "kv_dtype": next((FLOATS.get(array.dtype, dtype) for array in kept), dtype),
            "kv_token_bytes": sum(array.shape[1] * array.shape[-1] * array.itemsize for array in kept),
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


def keys_and_values(layer):
    """The arrays [1, heads, tokens, features] that a layer's cache keeps; a recurrent layer has none."""
    inner = getattr(layer, "caches", None)
    if inner is not None:
        return [kept for layer in inner for kept in keys_and_values(layer)]
    arrays = [getattr(layer, "keys", None), getattr(layer, "values", None)]
    return [array for array in arrays if getattr(array, "ndim", 0) == 4]


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
    global FLOATS, mx, mlx_lm, generate, sample_utils, make_prompt_cache, tree_flatten
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
    FLOATS = {mx.float32: "f32", mx.bfloat16: "bf16", mx.float16: "f16"}


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
