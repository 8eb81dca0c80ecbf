// Ten times the traffic within a moment, and back: is it taken, and is the time after it as before?
import { describe, objectives, open, rate, seconds } from "./common.js";

export { handleSummary, predict as default } from "./common.js";
const part = (share) => `${Math.max(1, Math.round(seconds * share))}s`;
export const options = describe(
  open("ramping-arrival-rate", {
    startRate: rate,
    stages: [
      { target: rate, duration: part(0.3) },
      { target: 10 * rate, duration: part(0.02) },
      { target: 10 * rate, duration: part(0.2) },
      { target: rate, duration: part(0.02) },
      { target: rate, duration: part(0.46) },
    ],
  }),
  objectives(),
);
