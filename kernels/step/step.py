"""One step: the forward pass of a batch of token positions, compiled as a whole and run by all threads of all teams.

Phases are separated by barriers of the team; where one worker needs what the others made there is a gather (team.py).
Per layer, `->` is a gather and `|` a barrier:

    normalise | q, k, v | rotate, store | attend, round -> collect | output rows -> normalise | router | choose | pack |
    gate, up, round -> collect | down | add to the residual stream ->        where experts are split by row
    gate, up, round | down -> add to the residual stream ->                  where workers hold whole experts

One worker collects nothing: all blocks are its own. In a step of many tokens each worker normalises and routes a share
of them, and all gather the choices before they pack.

Owner computes: every output element is made by one thread of one worker, in one order of operations, and nothing is
summed across workers. So the bits do not depend on how the model, the batch or the work is shared out.
"""

from __future__ import annotations

import numpy as np

from numoe.kernels.attention.phases import attention, attention_output, copy_blocks
from numoe.kernels.attention.piece_list import list_pieces
from numoe.kernels.cpu.jit import kernel
from numoe.kernels.experts.phases import feed_forward
from numoe.kernels.experts.sharing import share_routing
from numoe.kernels.matmul.claims import claims_of, multiply_claim
from numoe.kernels.matmul.column_groups import group_all
from numoe.kernels.matmul.columns import gather_row, prepare
from numoe.kernels.matmul.vectors import copy_floats
from numoe.kernels.records import Constants, Floats, Memory, ShardSizes, StepInput, Weights
from numoe.kernels.step.alternatives import list_alternatives
from numoe.kernels.step.sampling import NOT_DRAWN, PADDING, add_biases, allow_only, draw, log_sum_exp, penalise
from numoe.kernels.step.worst import DrawMemory
from numoe.kernels.threads.atomics import atomic_add, atomic_load
from numoe.kernels.threads.profile import (
    ATTENTION_OUTPUT,
    DOWN,
    DRAW,
    EMBED,
    GATE_UP,
    HEAD,
    QKV,
    ROUTER,
    begin_profile,
    end_profile,
    enter,
    enter_layer,
)
from numoe.kernels.threads.system_calls import clock_ns, futex_wake
from numoe.kernels.threads.team import SEEN, Team, arrive, claimed, gather, release
from numoe.kernels.threads.waiting import wait_idle, wait_while
from numoe.kernels.weights.embedding import embed_row

NOWHERE = -1  # as in protos/messages.py; places count from the embedding, by two in each layer
LARGEST = np.float32(3.4028234664e38)


@kernel
def _begin(threads: int, sizes: ShardSizes, memory: Memory, step: StepInput) -> None:
    """Group the step's tokens, by one thread: in columns, for a dense feed-forward in the one expert, and in pieces."""
    tokens = step.header[0]
    list_pieces(threads, sizes, memory, step)
    groups = group_all(memory.dense, tokens)
    for token in range(tokens):
        memory.dense.source[token] = token
    if sizes.worker == 0:
        for sequence in range(step.header[1]):
            step.experts_run[sequence] = 0
    if sizes.routed:
        share_routing(memory.routed, memory.routed_starts, groups, tokens, sizes.worker)
    else:
        group_all(memory.expert, tokens)
        for token in range(tokens):
            memory.chosen[token, 0] = 0
            memory.columns[token, 0] = token
            memory.shares[token, 0] = 1.0


@kernel
def _embed(team: Team, sizes: ShardSizes, weights: Weights, memory: Memory, step: StepInput) -> None:
    """Embed each token, by the owner of its row; then every worker takes its slice as residual stream.

    Where another host has run the layers before, every worker takes its slice of what that made.
    """
    tokens = step.header[0]
    own = memory.parts[sizes.worker]
    if sizes.embeds == 0:
        for token in claimed(team, tokens):
            source = step.hidden_in.ctypes.data + 4 * (sizes.width * token + sizes.first_width)
            copy_floats(own.hidden + 4 * own.width * token, source, own.width)
        gather(team)
        return
    for token in claimed(team, tokens):
        row = step.token_ids[token] - sizes.first_vocabulary
        if 0 <= row < sizes.own_vocabulary:
            stored = weights.embedding[row * sizes.embedding_row_bytes : (row + 1) * sizes.embedding_row_bytes]
            floats = memory.rows[team.thread, : sizes.width]
            embed_row(floats, stored, sizes.embedding_tile, memory.unpacked[team.thread])
            copy_floats(own.embedding + 4 * sizes.width * token, floats.ctypes.data, sizes.width)
    gather(team)
    for token in claimed(team, tokens):
        for worker in range(sizes.workers):
            part = memory.parts[worker]
            if 0 <= step.token_ids[token] - part.first_vocabulary < part.vocabulary:
                source = part.embedding + 4 * (sizes.width * token + sizes.first_width)
                copy_floats(own.hidden + 4 * own.width * token, source, own.width)
    gather(team)


@kernel
def _logits(
    team: Team, sizes: ShardSizes, constants: Constants, weights: Weights, memory: Memory, step: StepInput
) -> None:
    """Compute own vocabulary rows of the logits of the tokens that are drawn from; ends with a gather."""
    samples = step.header[2]
    matrix = weights.head[0]
    if arrive(team):
        group_all(memory.dense, samples)
        for sample in range(samples):
            memory.dense.source[sample] = step.samples[sample].token
        release(team)
    x_integer, x_float = memory.x_integer.ctypes.data, memory.x_float.ctypes.data
    norm = weights.output_norm.ctypes.data
    prepare(team, memory, sizes.width, norm, constants.epsilon[0], matrix.integer, 1 - matrix.integer)
    own = memory.parts[sizes.worker]
    for item in claimed(team, memory.dense.used[0] * claims_of(matrix)):
        multiply_claim(weights.tiles, matrix, item, memory.dense, x_integer, x_float, own.logits, 64 * matrix.panels)
    gather(team)


@kernel
def _draw_one(team: Team, step: StepInput, number: int, logits: Floats, scratch: DrawMemory, vocabulary: int) -> int:
    """Change the logits of a sample as it asks, and draw; what it may draw is waited for, as it is told meanwhile."""
    sample = step.samples[number]
    last = sample.first_bias + sample.biases
    add_biases(logits, step.bias_tokens, step.bias_values, sample.first_bias, sample.biases, scratch.maxima)
    penalise(logits, sample, step.seen_tokens, step.seen_counts, scratch.maxima)
    add_biases(logits, step.bias_tokens, step.bias_values, last, sample.repeats, scratch.maxima)
    if sample.masked != 0:
        ready = step.masks_ready.ctypes.data
        wait_while(ready, np.int32(0), ready + 64, team.abort, team.spins, team.timeout_ns, 0, team.profile)
        allow_only(logits, step.allowed[number], scratch.maxima)
    return draw(logits, scratch, sample, vocabulary)


@kernel
def _draw_tokens(team: Team, sizes: ShardSizes, memory: Memory, step: StepInput) -> None:
    """Draw each sample, by one thread of one worker: assemble its logits, draw, note token and log-probability."""
    thread = team.thread
    logits, groups = memory.candidates[thread], memory.candidate_groups[thread]
    listed = memory.candidate_values[thread], memory.candidate_ids[thread]
    scratch = DrawMemory(groups[0], groups[1], listed[0], listed[1], memory.candidate_buckets[thread])
    own_samples = (step.header[2] - sizes.worker + sizes.workers - 1) // sizes.workers
    for index in claimed(team, own_samples):
        number = sizes.worker + sizes.workers * index
        address = logits.ctypes.data
        for worker in range(sizes.workers):
            part = memory.parts[worker]
            padded = (part.vocabulary + 15) // 16 * 16
            copy_floats(address + 4 * part.first_vocabulary, part.logits + 4 * padded * number, padded)
        for pad in range(sizes.vocabulary, logits.shape[0]):
            logits[pad] = PADDING
        sample = step.samples[number]
        normaliser = log_sum_exp(logits, scratch.maxima)
        token = NOT_DRAWN
        if normaliser == normaliser:  # a number: all logits are finite
            count = min(sample.top, sizes.vocabulary)
            list_alternatives(step.top_tokens[number], step.top_logprobs[number], count, logits, scratch, normaliser)
            token = sample.given
            if token == NOT_DRAWN:
                token = _draw_one(team, step, number, logits, scratch, sizes.vocabulary)
        for worker in range(sizes.workers):
            part = memory.parts[worker]
            row = token - part.first_vocabulary
            if 0 <= row < part.vocabulary:
                padded = (part.vocabulary + 15) // 16 * 16
                copy_floats(logits.ctypes.data, part.logits + 4 * (padded * number + row // 16 * 16), 16)
                step.drawn_logprobs[number] = logits[row % 16] - normaliser
        step.drawn_tokens[number] = token
        if token == NOT_DRAWN:
            step.drawn_logprobs[number] = np.nan
    gather(team)


@kernel
def _look_at_hidden(team: Team, sizes: ShardSizes, memory: Memory, step: StepInput, place: int) -> None:
    """In a step that is checked: note the first place after which the residual stream holds what is no finite number.

    One thread of all looks; between a gather and the next one nobody writes what it reads.
    """
    if step.header[4] == 0 or sizes.worker != 0 or team.thread != 0 or step.not_finite[0] != NOWHERE:
        return
    row = memory.rows[team.thread]
    for token in range(step.header[0]):
        gather_row(row.ctypes.data, memory.parts, token)
        for value in range(sizes.width):
            if not -LARGEST <= row[value] <= LARGEST:
                step.not_finite[0] = place
                return


@kernel
def run_step(
    team: Team, sizes: ShardSizes, constants: Constants, weights: Weights, memory: Memory, step: StepInput
) -> None:
    """Run one forward pass, by one thread of a team.

    Nothing of the step slot is read after the last gather: by then the coordinator may be writing the next step.
    """
    samples = step.header[2]
    enter_layer(team.profile, sizes.layers)
    enter(team.profile, EMBED)
    if arrive(team):
        _begin(team.threads, sizes, memory, step)
        release(team)
    if step.header[5] > 0:
        copy_blocks(team, sizes, memory, step)
    _embed(team, sizes, weights, memory, step)
    _look_at_hidden(team, sizes, memory, step, 0)
    for index in range(sizes.layers):
        enter_layer(team.profile, index)
        attention(team, sizes, constants, weights, memory, step, index)
        attention_output(team, sizes, weights, memory, weights.layers[index])
        _look_at_hidden(team, sizes, memory, step, 1 + 2 * index)
        feed_forward(team, sizes, constants, weights, memory, step, index)
        _look_at_hidden(team, sizes, memory, step, 2 + 2 * index)
    enter_layer(team.profile, sizes.layers)
    if samples > 0:
        enter(team.profile, HEAD)
        _logits(team, sizes, constants, weights, memory, step)
        enter(team.profile, DRAW)
        _draw_tokens(team, sizes, memory, step)


@kernel
def _count_step_bytes(sizes: ShardSizes, weights: Weights, memory: Memory) -> int:
    """Note how many bytes of weights every step reads, whatever the router chooses, by phase; returns their sum."""
    step_bytes = memory.step_bytes
    step_bytes[:] = 0
    step_bytes[HEAD] = weights.head[0].expert_bytes
    for index in range(sizes.layers):
        layer = weights.layers[index]
        step_bytes[QKV] += layer.q.expert_bytes + layer.k.expert_bytes + layer.v.expert_bytes
        step_bytes[ATTENTION_OUTPUT] += layer.output.expert_bytes
        if sizes.routed:
            step_bytes[ROUTER] += layer.router.expert_bytes
        else:
            step_bytes[GATE_UP] += layer.gate.expert_bytes + layer.up.expert_bytes
            step_bytes[DOWN] += layer.down.expert_bytes
    return step_bytes.sum()


@kernel
def serve_steps(
    team: Team,
    sizes: ShardSizes,
    constants: Constants,
    weights: Weights,
    memory: Memory,
    step: StepInput,
    step_word: int,  # address of the number of the last step published, and of how many sleep on it
    step_sleepers: int,
    done_word: int,  # address of the number of the last step done
    idle_spins: int,
) -> None:
    """Run every step that is published, until the abort word is set.

    Raises:
        StepAborted: the abort word was set.
        StepTimedOut: another worker is stuck.
    """
    seen = np.int32(0)
    dense_bytes = _count_step_bytes(sizes, weights, memory) if team.thread == 0 else 0
    sign = team.signs + SEEN if team.thread == 0 else 0
    while True:
        wait_idle(step_word, seen, step_sleepers, team.abort, idle_spins, sign, team.profile)
        seen = atomic_load(step_word)
        started, tokens = clock_ns(), step.header[0]
        begin_profile(team.profile, step.header[3], started)
        run_step(team, sizes, constants, weights, memory, step)
        end_profile(team.profile, started)
        if team.thread == 0:
            memory.counters[0].steps += 1
            memory.counters[0].tokens += tokens
            memory.counters[0].bytes_begun += dense_bytes
            memory.counters[0].bytes_read = memory.counters[0].bytes_begun
            memory.counters[0].step_ns += clock_ns() - started
            if sizes.worker == 0:
                atomic_add(done_word, 1)
                futex_wake(done_word)
