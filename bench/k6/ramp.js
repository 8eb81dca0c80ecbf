// A ramp from little traffic to ten times as much and back, of predictions that are waited for and
// of such that run later. It fails where an objective is missed. Started by bench/k6.py, which sets:
// URL, KEY, MODEL (owner/name), INPUT (JSON), LOW (requests a second of each kind), SECONDS (of a
// stage), SYNC_P95_MS, ASYNC_P95_MS, PLACES (requests open at once of each kind; 0: 200), SUMMARY.
import http from "k6/http";
import { check } from "k6";

export { handleSummary } from "./common.js";
const places = Number(__ENV.PLACES) || 200;
const low = Number(__ENV.LOW);
const stage = `${__ENV.SECONDS}s`;
const ramp = {
  executor: "ramping-arrival-rate",
  startRate: low,
  timeUnit: "1s",
  // Who waits for an answer takes a place; without any left, requests are dropped, and counted.
  preAllocatedVUs: Math.min(20, places),
  maxVUs: places,
  stages: [
    { target: low, duration: stage },
    { target: 10 * low, duration: stage },
    { target: 10 * low, duration: stage },
    { target: low, duration: stage },
  ],
};

export const options = {
  scenarios: {
    sync: { ...ramp, exec: "sync" },
    async: { ...ramp, exec: "submit" },
  },
  thresholds: {
    "http_req_duration{scenario:sync}": [`p(95)<${__ENV.SYNC_P95_MS}`],
    "http_req_duration{scenario:async}": [`p(95)<${__ENV.ASYNC_P95_MS}`],
    "http_req_failed{scenario:sync}": ["rate<0.01"],
    "http_req_failed{scenario:async}": ["rate<0.01"],
    dropped_iterations: ["count<1"],
    checks: ["rate>0.99"],
  },
  summaryTrendStats: ["med", "p(95)", "p(99)", "max"],
};

const address = `${__ENV.URL}/v1/models/${__ENV.MODEL}/predictions`;
const body = JSON.stringify({ input: JSON.parse(__ENV.INPUT) });
const headers = {
  Authorization: `Bearer ${__ENV.KEY}`,
  "Content-Type": "application/json",
};

export function sync() {
  const answer = http.post(address, body, { headers });
  check(answer, { "a prediction is answered": (one) => one.status === 201 });
}

export function submit() {
  const wish = { ...headers, Prefer: "respond-async" };
  const answer = http.post(address, body, { headers: wish });
  check(answer, { "a job is accepted": (one) => one.status === 202 });
}
