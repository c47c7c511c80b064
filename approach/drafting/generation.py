"""Drafts for many problems, in batches that are kept on disk: a run that was killed goes on where it was."""

import hashlib
import json
import sys
from functools import cached_property
from importlib.metadata import version
from typing import TypedDict

import torch
from accelerate import PartialState
from tqdm import tqdm
from transformers import BatchEncoding, GenerationConfig, StoppingCriteria, set_seed

from approach.drafting.partial import PartialDrafts
from approach.models import context_length, fastest_dtype, find_stops, load_model, weights_digest
from approach.prompt import END_TAG, MAX_NEW_TOKENS, REPETITION_PENALTY

DECODINGS = {
    "greedy": {"do_sample": False},
    "greedy, penalty 1.15": {"do_sample": False, "repetition_penalty": REPETITION_PENALTY},
    "sampled": {"do_sample": True, "temperature": 0.7, "top_p": 0.9, "top_k": 0},  # the report's
    "sampled, penalty 1.15": {
        "do_sample": True,
        "temperature": 0.7,
        "top_p": 0.9,
        "top_k": 0,
        "repetition_penalty": REPETITION_PENALTY,
    },
}
LEAVING = 8  # once one in so many drafts of a batch has ended, the ended ones leave it


class Draft(TypedDict):
    """A draft, whether it ended by itself, and its tokens; the last two are None where no model wrote it."""

    prediction: str
    ended: bool | None
    num_tokens: int | None


def cut_draft(ids: list[int], stops: set[int]) -> tuple[list[int], bool]:
    """The new tokens before the first stop token, and whether there was one."""
    for position, token in enumerate(ids):
        if token in stops:
            return ids[:position], True
    return ids, False


class EnoughEnded(StoppingCriteria):
    """Interrupts a batch once one in `LEAVING` of its drafts has ended, so that the ended ones can leave it."""

    def __init__(self, num_drafts: int, stops: set[int], device: torch.device):
        self.ended = torch.zeros(num_drafts, dtype=torch.bool, device=device)
        self.stops = torch.tensor(sorted(stops), device=device)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs) -> torch.Tensor:
        self.ended |= torch.isin(input_ids[:, -1], self.stops)
        return torch.full_like(self.ended, self.ended.sum() * LEAVING >= len(self.ended))


class Drafter:
    """
    A model that drafts, in `dtype` or the fastest that the device has, and its tokenizer.

    Ends with one line that names `argument` where it cannot be loaded.
    """

    def __init__(
        self,
        name: str,
        max_new_tokens: int = MAX_NEW_TOKENS,
        batch_size: int = 32,
        argument: str = "--model_name_or_path",
        dtype: torch.dtype | None = None,
    ):
        self.name, self.max_new_tokens, self.batch_size, self.argument = name, max_new_tokens, batch_size, argument
        self.max_batch = batch_size  # how many drafts fit into memory at once, as far as is known
        device = PartialState().device
        self.model, self.tokenizer = load_model(name, argument, dtype or fastest_dtype(device), device)
        self.stops = find_stops(self.model, self.tokenizer)
        # What a model's folder sets for its users, a repetition penalty say, is no part of the decodings above.
        self.model.generation_config = GenerationConfig()
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token

    @cached_property
    def weights(self) -> str:
        """A digest of the model's weights, to the bit."""
        return weights_digest(self.model)

    def hash_settings(self, prompts: list[str], decoding: dict, seed: int | None) -> str:
        """A hash of everything that decides the drafts: drafts on disk are taken up under the same hash only."""
        settings = [
            self.weights,
            prompts,
            decoding,
            seed,
            self.max_new_tokens,
            self.batch_size,
            str(PartialState().device),
            str(self.model.dtype),
            version("torch"),
            version("transformers"),
        ]
        return hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:16]

    def draft(
        self, prompts: list[str], partial: PartialDrafts, decoding_name: str = "greedy", seed: int | None = None
    ) -> list[Draft]:
        """
        Drafts for all prompts in their order, by one of `DECODINGS`; a sampled one is drawn with a seed.

        Prompts of similar length go together, so that little is padding. Every batch has a seed of its own, so that
        it is the same batch whichever process drafts it, in this run or in one that goes on after a kill.
        """
        state = PartialState()
        decoding = DECODINGS[decoding_name]
        key = self.hash_settings(prompts, decoding, seed)
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        batches = [order[i : i + self.batch_size] for i in range(0, len(order), self.batch_size)]
        own_batches = list(enumerate(batches))[state.process_index :: state.num_processes]
        done = partial.read(key)
        for number, rows in tqdm(own_batches, desc="Drafting", disable=not state.is_main_process):
            if not all(row in done for row in rows):
                set_seed(1000 * (seed or 0) + number)
                partial.append(key, rows, self.draft_batch([prompts[row] for row in rows], decoding))
        state.wait_for_everyone()
        done = partial.read(key)
        return [done[row] for row in range(len(prompts))]

    def draft_batch(self, prompts: list[str], decoding: dict) -> list[Draft]:
        """Drafts for a batch of prompts, in halves where the device's memory is too small for the whole."""
        if len(prompts) > self.max_batch:
            first, rest = prompts[: self.max_batch], prompts[self.max_batch :]
            return self.draft_batch(first, decoding) + self.draft_batch(rest, decoding)
        try:
            with torch.inference_mode():
                return self.draft_together(prompts, decoding)
        except torch.OutOfMemoryError:
            if len(prompts) == 1:
                sys.exit(
                    f"{self.argument} {self.name}: the device's memory is too small for one draft: lower "
                    "--max_new_tokens"
                )
        # Not in the except block: there the error would keep the tensors of the failed batch in memory.
        self.max_batch = len(prompts) // 2
        torch.cuda.empty_cache()
        return self.draft_batch(prompts, decoding)

    def draft_together(self, prompts: list[str], decoding: dict) -> list[Draft]:
        """
        Drafts for prompts that fit into memory together.

        Drafts that have ended leave the batch, and the others go on with what the model has cached of them.
        """
        texts = self.pad(prompts)
        ids, mask = texts["input_ids"], texts["attention_mask"]
        width = ids.shape[1]
        budget = min(self.max_new_tokens, context_length(self.model) - width)
        if budget < 1:
            sys.exit(f"{self.argument} {self.name}: a prompt of {width} tokens leaves no room for a draft")
        drafts: dict[int, Draft] = {}
        rows, cache = list(range(len(prompts))), None
        while rows:
            output = self.model.generate(
                input_ids=ids,
                attention_mask=mask,
                past_key_values=cache,
                **decoding,
                max_new_tokens=budget - (ids.shape[1] - width),
                eos_token_id=sorted(self.stops),
                pad_token_id=self.tokenizer.pad_token_id,
                stopping_criteria=[EnoughEnded(len(rows), self.stops, ids.device)],
                return_dict_in_generate=True,
            )
            ids, cache, going_on = output.sequences, output.past_key_values, []
            is_last = ids.shape[1] == width + budget
            for place, new in enumerate(ids[:, width:].tolist()):
                new, ended = cut_draft(new, self.stops)
                if ended or is_last:
                    drafts[rows[place]] = self.decode(new, ended)
                else:
                    going_on.append(place)
            rows = [rows[place] for place in going_on]
            kept = torch.tensor(going_on, dtype=torch.long, device=ids.device)
            ids, mask = ids[kept], torch.nn.functional.pad(mask[kept], (0, ids.shape[1] - mask.shape[1]), value=1)
            cache.batch_select_indices(kept)
        return [drafts[row] for row in range(len(prompts))]

    def decode(self, ids: list[int], has_ended: bool) -> Draft:
        """
        The draft that new tokens spell; the end tag ends it, too, where a model writes it as text.

        The caller cuts the prompt off by position: tags are special tokens and vanish on decoding, so that a cut in
        the decoded text would find no tag and leave the problem in the draft.
        """
        text, tag, _ = self.tokenizer.decode(ids, skip_special_tokens=True).partition(END_TAG)
        return {"prediction": text.strip(), "ended": has_ended or bool(tag), "num_tokens": len(ids)}

    def pad(self, prompts: list[str]) -> BatchEncoding:
        """
        The prompts' ids and mask, `(rows, longest prompt)`, padded on the left, on the model's device.

        A prompt is padded with its own first token: a repetition penalty counts what is masked, too, and a padding
        token that also ends drafts would end the padded ones more rarely.
        """
        texts = self.tokenizer(prompts)["input_ids"]
        width = max(len(ids) for ids in texts)
        rows = [(ids[:1] or [self.tokenizer.pad_token_id]) * (width - len(ids)) + ids for ids in texts]
        mask = [[0] * (width - len(ids)) + [1] * len(ids) for ids in texts]
        return BatchEncoding({"input_ids": rows, "attention_mask": mask}, tensor_type="pt").to(self.model.device)
