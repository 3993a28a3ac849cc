#!/usr/bin/env python3
"""A Tasker worker: the five handlers of a user registration, written from proto/tasker/v1/worker_service.proto alone.

Run it with `python worker.py [HOST:PORT ...]`, with one or several servers of a cluster. To make it yours, put your own functions under `@handler` and keep the rest.
"""

import asyncio
import json
import logging
import os
import random
import signal
import socket
import sys
import uuid
from datetime import timedelta
from pathlib import Path

import grpc
import grpc_tools

# Compiles the stubs at start. README.md says how to generate them once instead.
sys.path += [str(Path(__file__).resolve().parents[2] / "proto"), str(Path(grpc_tools.__file__).with_name("_proto"))]
pb, services = grpc.protos_and_services("tasker/v1/worker_service.proto")

MAX_CONCURRENT_STEPS = 10
SHUTDOWN_SECONDS = 30  # how long running steps may take when the worker is told to end
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0  # seconds between two tries to connect
MAX_ASSIGNMENT_BYTES = 16 << 20  # an assignment carries the results of the steps before; the server sends none that is larger
CHANNEL_OPTIONS = [
    ("grpc.keepalive_time_ms", 8_000),  # notices within 13 s a server that vanished without a word, or stands still:
    ("grpc.keepalive_timeout_ms", 5_000),  # a ping when it has been silent for so long, and
    ("grpc.http2.ping_timeout_ms", 5_000),  # the time for its answer, which is this one and by itself a minute
    ("grpc.max_receive_message_length", MAX_ASSIGNMENT_BYTES),
    ("grpc.use_local_subchannel_pool", 1),  # a new channel tries at once: the pauses are ours
]

HANDLERS = {}


def handler(name):
    """Registers an async function that takes a `Step` and returns anything that JSON can say. It may run more than once
    for the same step: give `idempotency_key` to what you call. A function that blocks belongs in `asyncio.to_thread`."""
    return lambda function: HANDLERS.setdefault(name, function)


class Step:
    """`assignment` has more: attempt, deadline_at, correlation_id, idempotency_key, … (see the proto)."""

    def __init__(self, assignment):
        self.assignment = assignment
        self.context = json.loads(assignment.context_json)
        self.config = json.loads(assignment.handler_config_json)
        self.results = {name: json.loads(result) for name, result in assignment.results_json.items()}


class PermanentError(Exception):
    """Trying again is useless: the step fails at once."""

    def __init__(self, message, error_code="", **context):
        error = pb.PermanentError(message=message, error_code=error_code, context_json=json.dumps(context))
        self.outcome = {"permanent_error": error}


class RetryableError(Exception):
    """The step may succeed if tried again, `retry_after` seconds from now if the service asked for that."""

    def __init__(self, message, error_code="", retry_after=None, **context):
        error = pb.RetryableError(message=message, error_code=error_code, context_json=json.dumps(context))
        if retry_after is not None:
            error.retry_after.FromTimedelta(timedelta(seconds=retry_after))
        self.outcome = {"retryable_error": error}


async def call(service):
    """Stands in for an HTTP request to a service."""
    await asyncio.sleep(float(os.environ.get("CALL_SECONDS", "0.05")))


@handler("UserManagement::StepHandlers::CreateUserAccountHandler")
async def create_user_account(step):
    await call("user_service")
    if step.context["email"].startswith("taken@"):
        raise PermanentError("the user exists with different data", "USER_CONFLICT", service="user_service")
    return {"user_id": str(uuid.uuid5(uuid.NAMESPACE_URL, step.assignment.idempotency_key)), "status": "created"}


@handler("UserManagement::StepHandlers::SetupBillingProfileHandler")
async def setup_billing_profile(step):
    await call("billing_service")
    if step.context["plan"] == "pro" and step.assignment.attempt == 1:
        raise RetryableError("billing_service server error: 503", "HTTP_503", service="billing_service")
    return {"user_id": step.results["create_user_account"]["user_id"], "plan": step.context["plan"]}


@handler("UserManagement::StepHandlers::InitializePreferencesHandler")
async def initialize_preferences(step):
    await call("preferences_service")
    return {"marketing_consent": step.context["marketing_consent"]}


@handler("UserManagement::StepHandlers::SendWelcomeSequenceHandler")
async def send_welcome_sequence(step):
    await call("notification_service")
    if step.context["plan"] == "enterprise" and step.assignment.attempt == 1:
        raise RetryableError("rate limited by notification_service", "HTTP_429", retry_after=1.5)
    return {"sent_to": step.context["email"]}


@handler("UserManagement::StepHandlers::UpdateUserStatusHandler")
async def update_user_status(step):
    await call("user_service")
    return {"user_id": step.results["create_user_account"]["user_id"], "status": "active"}


class Worker:
    def __init__(self, servers):
        self.servers = servers
        self.server = servers[0]  # the present one, or the next to try
        self.lease = LONGEST_PAUSE  # seconds, as the last connection was told
        self.worker_id = ""  # as the last connection was told
        self.running = {}  # lease token -> asyncio task
        self.results = {}  # lease token -> result that is not acknowledged yet
        self.outbox = None  # what is to be said on the connection, while there is one
        self.draining = False
        self.pause = FIRST_PAUSE

    async def run(self):
        """Keeps a connection until the worker was told to end and has nothing left to do or to say."""
        while not self.is_done():
            try:
                async with grpc.aio.insecure_channel(self.server, CHANNEL_OPTIONS) as channel:
                    await self.serve(services.WorkerServiceStub(channel))
            except grpc.aio.AioRpcError as error:
                if error.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION):
                    sys.exit(f"refused by {self.server}: {error.details()}")  # so it would be again
                logging.warning("no connection to %s: %s", self.server, error.details())
            if not self.is_done():
                self.server = self.servers[(self.servers.index(self.server) + 1) % len(self.servers)]
                if self.running or self.results:  # every server is to be tried before the leases run out
                    self.pause = min(self.pause, self.lease / 3 / len(self.servers))
                await asyncio.sleep(random.uniform(self.pause / 2, self.pause))
                self.pause = min(2 * self.pause, LONGEST_PAUSE)

    async def serve(self, stub):
        """Listens to the server until the stream ends."""
        outbox, heartbeats = asyncio.Queue(), None
        register = pb.Register(
            name=f"python@{socket.gethostname()}/{os.getpid()}",
            handlers=sorted(HANDLERS),
            max_concurrent_steps=MAX_CONCURRENT_STEPS,
            max_assignment_bytes=MAX_ASSIGNMENT_BYTES,
            previous_worker_id=self.worker_id,
            held_leases=[*self.running, *self.results],
        )
        try:
            async for response in stub.Work(said(register, outbox)):
                kind = response.WhichOneof("message")
                message = getattr(response, kind) if kind else None
                if kind == "registered":
                    logging.info("connected to %s as %s", self.server, message.worker_id)
                    self.worker_id, self.outbox, self.pause = message.worker_id, outbox, FIRST_PAUSE
                    self.lease = message.lease_duration.ToTimedelta().total_seconds()
                    heartbeats = asyncio.create_task(beat(outbox, message.heartbeat_interval.ToTimedelta()))
                    for result in self.results.values():
                        self.say(result=result)
                    if self.draining:
                        self.say(drain=pb.Drain())
                elif kind == "assignment" and self.draining:  # it crossed our `drain`
                    self.answer(message.lease_token, released=pb.Released())
                elif kind == "assignment":
                    self.running[message.lease_token] = asyncio.create_task(self.perform(message))
                elif kind == "ack":  # committed, or stale: there is no more use for it either way
                    self.results.pop(message.lease_token, None)
                elif kind == "cancel":
                    self.results.pop(message.lease_token, None)
                    if message.lease_token in self.running:
                        self.running.pop(message.lease_token).cancel()
                elif kind == "draining":
                    logging.info("the server is about to end; it takes results until then")
                self.close_if_done()
        finally:
            self.outbox = None
            if heartbeats:
                heartbeats.cancel()

    async def perform(self, assignment):
        """Runs the handler and answers with how that ended."""
        try:
            result = await HANDLERS[assignment.handler](Step(assignment))
            outcome = {"success": pb.Success(result_json=json.dumps(result, allow_nan=False))}
        except (PermanentError, RetryableError) as error:
            outcome = error.outcome
        except Exception as error:  # nobody expected it, so it may be gone at the next try
            logging.exception("%s failed", assignment.idempotency_key)
            outcome = RetryableError(repr(error), type(error).__name__).outcome
        if self.running.pop(assignment.lease_token, None):  # else it was cancelled
            self.answer(assignment.lease_token, **outcome)

    def answer(self, lease_token, **outcome):
        """Says a result, and keeps it until the server has it for sure."""
        self.results[lease_token] = pb.StepResult(lease_token=lease_token, **outcome)
        self.say(result=self.results[lease_token])

    def say(self, **message):
        if self.outbox:
            self.outbox.put_nowait(pb.WorkRequest(**message))

    def drain(self):
        """Takes no more steps, and ends when those that run are done."""
        logging.info("ending after %d running steps", len(self.running))
        self.draining = True
        self.say(drain=pb.Drain())
        self.close_if_done()

    def is_done(self):
        return self.draining and not self.running and not self.results

    def close_if_done(self):
        if self.outbox and self.is_done():
            self.outbox.put_nowait(None)


async def said(register, outbox):
    """This side of one stream, which is closed when this returns."""
    yield pb.WorkRequest(register=register)
    while message := await outbox.get():
        yield message


async def beat(outbox, interval):
    while True:
        await asyncio.sleep(interval.total_seconds())
        outbox.put_nowait(pb.WorkRequest(heartbeat=pb.Heartbeat()))


async def main(servers):
    worker = Worker(servers)
    work, loop = asyncio.current_task(), asyncio.get_running_loop()

    def end():
        worker.drain()
        loop.call_later(SHUTDOWN_SECONDS, work.cancel)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end)
    try:
        await worker.run()
    except asyncio.CancelledError:
        sys.exit("ended before its steps did; they will be run again elsewhere")


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    asyncio.run(main(sys.argv[1:] or ["127.0.0.1:7233"]))
