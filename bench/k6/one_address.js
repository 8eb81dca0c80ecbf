// Traffic of all kinds at one address while servers behind it die, for bench/visitors.py.
// It judges nothing: it writes one line for each request, and who reads them knows who was killed
// when. It fails only where a request could not be sent in time. Set are URL, KEY, MODEL, INPUT,
// SITE_URL, NAME (no other run's), FIRST (number of the first request), RATE (paid requests a second) and SECONDS.
import http from "k6/http";
import exec from "k6/execution";

const rate = Number(__ENV.RATE);
const first = Number(__ENV.FIRST);
const address = `${__ENV.URL}/v1/models/${__ENV.MODEL}/predictions`;
const body = JSON.stringify({ input: JSON.parse(__ENV.INPUT) });

function open(function_name, share) {
  return {
    executor: "constant-arrival-rate",
    exec: function_name,
    rate: Math.max(1, Math.round(rate * share)),
    timeUnit: "1s",
    duration: `${__ENV.SECONDS}s`,
    preAllocatedVUs: 100,
    // Who waits for a gateway that hangs still gets an answer, or its end.
    gracefulStop: "120s",
  };
}

export const options = {
  scenarios: {
    paid: open("predict", 1),
    jobs: open("submit", 0.25),
    site: open("look", 0.5),
  },
  thresholds: { dropped_iterations: ["count==0"] },
};

// Two with a key, two without: whichever way requests are dealt out, each server gets both kinds.
function headers(number, more) {
  const found = {
    Authorization: `Bearer ${__ENV.KEY}`,
    "Content-Type": "application/json",
    "X-Load-Request": String(number),
    ...more,
  };
  if (Math.floor(number / 4) % 2) {
    found["Idempotency-Key"] = `${__ENV.NAME}-${number}`;
  }
  return found;
}

function note(kind, number, started, answer, wanted) {
  const found = answer.status === wanted ? answer.json("id") : "";
  console.log(
    JSON.stringify({
      kind,
      number,
      started_s: started / 1000,
      ended_s: Date.now() / 1000,
      status: answer.status,
      error: answer.status === wanted ? "" : `${answer.status} ${answer.error} ${answer.body}`,
      id: found || "",
    }),
  );
}

export function predict() {
  const number = first + 2 * exec.scenario.iterationInTest;
  const started = Date.now();
  const answer = http.post(address, body, { headers: headers(number), timeout: "90s" });
  note("paid", number, started, answer, 201);
}

export function submit() {
  const number = first + 2 * exec.scenario.iterationInTest + 1;
  const wish = headers(number, { Prefer: "respond-async" });
  const started = Date.now();
  const answer = http.post(address, body, { headers: wish, timeout: "90s" });
  note("job", number, started, answer, 202);
}

export function look() {
  const started = Date.now();
  const answer = http.get(`${__ENV.SITE_URL}/api/models/${__ENV.MODEL}`, { timeout: "90s" });
  note("site", 0, started, answer, 200);
}
