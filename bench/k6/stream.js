// Streams of a language model. The wait for the first byte of the answer stands for the time to the
// first token. k6 reads an answer whole, so it cannot say when each token came: the time between
// two tokens is measured by `python -m bench.open_loop`. INPUT is {"messages": [...]} or
// {"prompt": "..."}; FIRST_P95_MS is the objective of the first byte.
import http from "k6/http";
import { check } from "k6";
import { bearer, describe, model, objectives, open, rate, seconds } from "./common.js";

export { handleSummary } from "./common.js";
const input = JSON.parse(__ENV.INPUT);
const messages = input.messages || [{ role: "user", content: input.prompt }];
const tokens = input.max_tokens ? { max_tokens: input.max_tokens } : {};
const body = JSON.stringify({ model, messages, stream: true, ...tokens });
const address = `${__ENV.URL}/openai/v1/chat/completions`;

export const options = describe(
  open("constant-arrival-rate", { rate, duration: `${seconds}s` }),
  { ...objectives(), [`http_req_waiting{model:${model}}`]: [`p(95)<${__ENV.FIRST_P95_MS}`] },
);

export default function stream() {
  const answer = http.post(address, body, { headers: bearer, tags: { model } });
  check(
    answer,
    {
      "a stream begins": (one) => one.status === 200,
      "a stream ends": (one) => String(one.body).trimEnd().endsWith("data: [DONE]"),
    },
    { model },
  );
}
