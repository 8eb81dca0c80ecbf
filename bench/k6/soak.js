// The same rate for hours: the last quarter must be as fast as the first, or something piles up.
// bench/k6.py compares the two.
import { describe, objectives, open, predict, rate, seconds } from "./common.js";
import exec from "k6/execution";

export { handleSummary } from "./common.js";
const limit = [`p(95)<${__ENV.P95_MS}`];
export const options = describe(
  open("constant-arrival-rate", { rate, duration: `${seconds}s` }),
  {
    ...objectives(),
    "http_req_duration{quarter:1}": limit,
    "http_req_duration{quarter:4}": limit,
  },
);

export default function soak() {
  const share = exec.instance.currentTestRunDuration / (1000 * seconds);
  exec.vu.metrics.tags.quarter = String(Math.min(4, 1 + Math.floor(4 * share)));
  predict();
}
