// What all scripts share: the request, its objectives and how it is sent. Started by bench/k6.py,
// which sets URL, KEY, MODEL (owner/name), INPUT (JSON), RATE (requests a second), SECONDS, P95_MS,
// ERRORS_MAX (a share, 0 to 1), PLACES (requests open at once, at most; 0: by the rate) and SUMMARY
// (a file).
import http from "k6/http";
import { check } from "k6";

export const rate = Number(__ENV.RATE);
export const seconds = Number(__ENV.SECONDS);
export const model = __ENV.MODEL;
export const bearer = {
  Authorization: `Bearer ${__ENV.KEY}`,
  "Content-Type": "application/json",
};

const address = `${__ENV.URL}/v1/models/${model}/predictions`;
const body = JSON.stringify({ input: JSON.parse(__ENV.INPUT) });

// An open loop: the next request starts in time, whether or not the last one was answered. Who
// waits takes a place; a request without a place is dropped, counted, and fails the run.
export function open(executor, more) {
  const most = Number(__ENV.PLACES) || 4 * Math.min(2000, Math.max(20, 2 * rate));
  const places = Math.ceil(most / 4);
  return { executor, timeUnit: "1s", preAllocatedVUs: places, maxVUs: most, ...more };
}

// The objectives of one model: the time to the answer, the share that fails, and none dropped.
export function objectives() {
  return {
    [`http_req_duration{model:${model}}`]: [`p(95)<${__ENV.P95_MS}`],
    [`http_req_failed{model:${model}}`]: [`rate<=${__ENV.ERRORS_MAX}`],
    dropped_iterations: ["count==0"],
    checks: [`rate>=${1 - Number(__ENV.ERRORS_MAX)}`],
  };
}

export function describe(scenario, thresholds) {
  return {
    scenarios: { predictions: scenario },
    thresholds,
    summaryTrendStats: ["count", "avg", "med", "p(90)", "p(95)", "p(99)", "max"],
    systemTags: ["status", "method", "scenario", "expected_response", "error_code"],
  };
}

export function predict() {
  const answer = http.post(address, body, { headers: bearer, tags: { model } });
  check(answer, { "a prediction is answered": (one) => one.status === 201 }, { model });
}

export function handleSummary(found) {
  return { [__ENV.SUMMARY]: JSON.stringify(found, null, 1) };
}
