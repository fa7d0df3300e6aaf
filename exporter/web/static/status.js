// Keeps the page fresh: ages count up each second, and every 15 seconds the parts are fetched anew. Without it, the page
// is complete and only stands still.
"use strict";

const updated = document.getElementById("updated");
let ahead = Date.now() / 1000 - Number(updated.dataset.now);

function words(seconds) {
  const rounded = (size, unit) => `${Math.round(seconds / size)} ${unit}`;
  if (seconds >= 2 * 86400) return rounded(86400, "d");
  if (seconds >= 2 * 3600) return rounded(3600, "h");
  if (seconds >= 90) return rounded(60, "min");
  return rounded(1, "s");
}

function tick() {
  const now = Date.now() / 1000 - ahead;
  for (const time of document.querySelectorAll("time[data-at]")) {
    time.textContent = words(Math.max(0, now - Number(time.dataset.at)));
  }
}

function localise() {
  for (const time of document.querySelectorAll("time[data-clock]")) {
    time.textContent = new Date(time.dateTime).toLocaleTimeString();
  }
}

async function refresh() {
  if (document.hidden) return;
  try {
    const answer = await fetch("./", { cache: "no-store", signal: AbortSignal.timeout(10000) });
    if (!answer.ok) throw new Error(answer.statusText);
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    const open = new Set(Array.from(document.querySelectorAll("details[open]"), (each) => each.dataset.key));
    for (const each of fresh.querySelectorAll("details")) each.open = open.has(each.dataset.key);
    const focused = document.activeElement.closest?.("details")?.dataset.key;
    for (const place of ["main", "header"]) document.querySelector(place).replaceWith(fresh.querySelector(place));
    document.title = fresh.title;
    ahead = Date.now() / 1000 - Number(document.getElementById("updated").dataset.now);
    for (const each of document.querySelectorAll("details")) {
      if (focused !== undefined && each.dataset.key === focused) each.querySelector("summary").focus();
    }
    localise();
  } catch {
    const lost = document.querySelector("#updated span:last-child");
    if (!lost.classList.contains("lost")) {
      lost.classList.add("lost");
      lost.prepend("the exporter does not answer; ");
    }
  }
}

localise();
setInterval(tick, 1000);
setInterval(refresh, 15000);
document.addEventListener("visibilitychange", refresh);
