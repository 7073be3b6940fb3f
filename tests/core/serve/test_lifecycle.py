"""Loading, leaving, failing, stopping: whatever happens, nobody is left waiting and no row is held for nobody."""

import asyncio
import json
import re
import socket
import threading
import time

import httpx
import pytest
from openai import APIError, OpenAI
from prometheus_client.parser import text_string_to_metric_families

from nanochat_core.base.errors import ConfigError, CorruptError
from nanochat_core.inference.engine import Batch, Engine
from nanochat_core.inference.sampling import Sampling
from nanochat_core.serve.errors import ApiError
from nanochat_core.serve.jobs import Answers, Job
from nanochat_core.serve.limits import Limits
from nanochat_core.serve.metrics import Metrics
from nanochat_core.serve.pool import ModelPool
from nanochat_core.serve.prompts import Prompt
from nanochat_core.serve.replies import Delta
from nanochat_core.serve.scheduler import Scheduler
from nanochat_core.serve.streams import ReplyStream

from .conftest import endless, eventually

CHAT = "/v1/chat/completions"
HI = [{"role": "user", "content": "hi"}]


def endless_job(engine, max_new_tokens=5000):
    sampling = Sampling(max_new_tokens=max_new_tokens)
    return Job(Prompt([1, 2]), engine.request([1, 2], sampling))


def breakable(is_broken):
    """An engine whose device fails in the middle of a step."""

    class Breakable(Batch):
        def step(self, only=None):
            if is_broken.is_set():
                raise RuntimeError("CUDA error: unspecified launch failure")
            return super().step(only)

    class Fragile(Engine):
        def slots(self, num_rows, **options):
            return Breakable(self, num_rows=num_rows, max_len=self.model.config.sequence_len)

    sound = endless().load()
    return Fragile(sound.model, sound.tokenizer)


@pytest.fixture
def scheduler():
    limits = Limits(num_rows=2, max_waiting=2)
    made = Scheduler("endless", endless().load(), limits=limits, metrics=Metrics().of_model("endless"))
    made.start()
    yield made
    made.close(timeout_s=10)


def test_a_cancelled_answer_leaves_its_row_within_one_step(scheduler):
    async def run():
        answers = Answers(scheduler, [endless_job(scheduler.engine)])
        scheduler.submit(answers.jobs)
        updates = answers.updates()
        for _ in range(3):
            await anext(updates)
        answers.cancel()
        return answers.jobs[0], answers.jobs[0].num_tokens

    job, told = asyncio.run(run())
    eventually(lambda: not scheduler._running)
    assert job.num_tokens <= told + 2  # the step in progress, and one that began as it was cancelled
    assert not job.request.is_done


def test_a_cancelled_answer_that_still_waits_is_never_begun(scheduler):
    async def run():
        jobs = [endless_job(scheduler.engine) for _ in range(3)]  # two rows
        answers = [Answers(scheduler, [job]) for job in jobs]
        for one in answers:
            scheduler.submit(one.jobs)
        await anext(answers[0].updates())
        answers[2].cancel()
        answers[0].cancel()
        fresh = Answers(scheduler, [endless_job(scheduler.engine, 3)])
        scheduler.submit(fresh.jobs)
        async for _ in fresh.updates():
            pass
        answers[1].cancel()
        return jobs

    jobs = asyncio.run(run())
    assert jobs[2].num_tokens == 0
    assert jobs[1].num_tokens > 0


def test_a_client_that_hangs_up_frees_the_row(serve_endless):
    with serve_endless(num_rows=1) as served:
        body = json.dumps({"messages": HI, "stream": True, "temperature": 0}).encode()
        head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        with socket.create_connection((served.http.base_url.host, served.http.base_url.port)) as connection:
            connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            seen = b""
            while not re.search(rb'"content":"[^"]*b', seen):  # an event may hold several tokens
                seen += connection.recv(4096)
            assert served.metric("nanochat_running_requests", "endless") == 1
        eventually(lambda: served.metric("nanochat_running_requests", "endless") == 0)
        assert served.metric("nanochat_cancelled_requests_total", "endless") == 1
        num_tokens = served.metric("nanochat_generated_tokens_total", "endless")
        assert num_tokens < 8000
        time.sleep(0.05)
        assert served.metric("nanochat_generated_tokens_total", "endless") == num_tokens
        assert served.chat(max_tokens=1, timeout_s=10).status_code == 200  # the only row is free


def test_a_client_that_hangs_up_before_the_whole_answer_frees_the_row(serve_endless):
    with serve_endless(num_rows=1) as served:
        with pytest.raises(httpx.ReadTimeout):
            served.http.post(CHAT, json={"messages": HI, "temperature": 0}, timeout=0.2)
        eventually(lambda: served.metric("nanochat_cancelled_requests_total", "endless") == 1)
        assert served.metric("nanochat_running_requests", "endless") == 0
        assert served.chat(max_tokens=1, timeout_s=10).status_code == 200


def test_a_model_that_is_loading_says_so(serve_endless):
    may_load = threading.Event()

    def load():
        assert may_load.wait(60)
        return endless().load()

    with serve_endless(endless(load=load), is_awaited=False) as served:
        health = served.http.get("/health")
        assert health.status_code == 503
        assert "endless: loading" in health.json()["error"]["message"]
        answer = served.chat(max_tokens=1)
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "model_loading"
        assert int(answer.headers["Retry-After"]) >= 1
        assert served.http.get("/v1/models").json()["data"][0]["id"] == "endless"
        may_load.set()
        served.pool.wait(60)
        assert served.http.get("/health").json()["status"] == "ok"
        assert served.chat(max_tokens=1).status_code == 200


def test_a_model_that_cannot_be_loaded_does_not_keep_others_from_answering(serve_endless):
    def load():
        raise CorruptError("model.safetensors is half a file")

    with serve_endless(endless("broken", load=load), endless("sound")) as served:
        health = served.http.get("/health")
        assert health.status_code == 503
        assert "half a file" in health.json()["reason"]
        assert health.json()["models"]["sound"] == "ready"
        assert served.chat(model="broken").json()["error"]["code"] == "model_failed"
        assert served.chat(model="sound", max_tokens=1).status_code == 200


def test_a_failing_engine_is_an_error_for_all_who_wait_and_for_health(serve_endless):
    is_broken = threading.Event()
    with serve_endless(endless(load=lambda: breakable(is_broken)), num_rows=1, max_waiting=8) as served:
        answers = {}

        def ask(name, **fields):
            answers[name] = served.chat(temperature=0, **fields)

        client = OpenAI(base_url=f"{served.http.base_url}/v1", api_key="none", max_retries=0)
        stream = client.chat.completions.create(model="endless", messages=HI, stream=True, temperature=0)
        next(stream)
        waiting = threading.Thread(target=ask, args=("whole",))
        waiting.start()
        eventually(lambda: served.metric("nanochat_queue_requests", "endless") == 1)
        is_broken.set()
        with pytest.raises(APIError, match="the engine of endless failed"):
            list(stream)
        waiting.join(20)
        assert not waiting.is_alive()
        assert answers["whole"].status_code == 500
        assert answers["whole"].json()["error"]["type"] == "server_error"
        health = served.http.get("/health")
        assert health.status_code == 503
        assert "endless: failed" in health.json()["reason"]
        assert served.chat().status_code == 503
        assert served.metric("nanochat_failed_requests_total", "endless") == 2
        assert served.metric("nanochat_model_ready", "endless") == 0


def test_a_reader_that_takes_nothing_is_let_go_and_its_answer_cancelled(scheduler):
    async def run():
        answers = Answers(scheduler, [endless_job(scheduler.engine)])
        scheduler.submit(answers.jobs)

        async def chunks():
            async for _ in answers.updates():
                yield Delta(content="a")

        async def send(message):
            if message["type"] == "http.response.body":
                await asyncio.Event().wait()  # its buffers are full, and stay so

        stream = ReplyStream(chunks(), answers, limits=Limits(stalled_s=0.1))
        scope = {"type": "http", "method": "POST"}
        await asyncio.wait_for(stream(scope, asyncio.Event().wait, send), 10)

    asyncio.run(run())
    eventually(lambda: not scheduler._running)


def test_who_waits_while_the_server_closes_is_told(scheduler):
    async def run():
        answers = Answers(scheduler, [endless_job(scheduler.engine)])
        scheduler.submit(answers.jobs)
        updates = answers.updates()
        await anext(updates)
        await asyncio.to_thread(scheduler.close, timeout_s=10)
        with pytest.raises(ApiError, match="shutting down"):
            async for _ in updates:
                pass
        with pytest.raises(ApiError, match="shutting down"):
            scheduler.submit([endless_job(scheduler.engine)])

    asyncio.run(run())


def test_a_job_that_is_refused_leaves_nothing_in_the_queue(scheduler):
    with pytest.raises(ApiError, match="this server takes 4"):
        scheduler.submit([endless_job(scheduler.engine) for _ in range(5)])
    assert not scheduler._waiting


def test_comments_are_sent_while_a_request_waits(serve_endless):
    with serve_endless(num_rows=1, ping_s=0.1) as served:
        ask = {"messages": HI, "stream": True, "temperature": 0}
        with (
            served.http.stream("POST", CHAT, json=ask),
            served.http.stream("POST", CHAT, json=ask) as waiting,
        ):
            for line in waiting.iter_lines():
                if line.startswith(":"):
                    break
                assert '"content":"a' not in line
            else:
                pytest.fail("no comment came")


def test_the_metrics_parse_and_count_what_happened(serve_endless):
    with serve_endless() as served:
        for _ in range(3):
            assert served.chat(temperature=0, max_tokens=5).status_code == 200
        assert served.http.get("/v1/whatever").status_code == 404
        answer = served.http.get("/metrics")
    families = {family.name: family for family in text_string_to_metric_families(answer.text)}
    assert answer.headers["content-type"].startswith("text/plain")

    def value(name, **labels):
        family = next(f for f in families.values() if any(s.name == name for s in f.samples))
        return sum(s.value for s in family.samples if s.name == name and labels.items() <= s.labels.items())

    assert value("nanochat_generated_tokens_total", model="endless") == 15
    assert value("nanochat_finished_requests_total", model="endless") == 3
    assert value("nanochat_time_to_first_token_seconds_count", model="endless") == 3
    assert value("nanochat_inter_token_seconds_count", model="endless") == 12
    assert value("nanochat_running_requests", model="endless") == 0
    assert value("nanochat_rows", model="endless") == 2
    assert value("nanochat_http_requests_total", path=CHAT, status="200") == 3
    assert value("nanochat_http_requests_total", path="other", status="404") == 1


def test_answers_do_not_depend_on_who_else_is_served(served):
    texts = [f"question {number}" for number in range(12)]

    def ask(text):
        body = served.chat(text, model="tiny-chat", seed=len(text), max_tokens=30).json()
        return body["choices"][0]["message"]["content"]

    alone = [ask(text) for text in texts]
    together = {}
    threads = [threading.Thread(target=lambda text=text: together.update({text: ask(text)})) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [together[text] for text in texts] == alone


def test_a_pool_without_models_is_refused():
    with pytest.raises(ConfigError, match="without models"):
        ModelPool([])
