"use strict";
(() => {
  const EVERY_MS = 2000;
  const TIMEOUT_MS = 5000;
  const PARTS = ["title", "#icon", "#page"];
  const banner = document.getElementById("banner");
  // Built from its parts: what the browser shows may have a name and password in it.
  const address = new URL(location.pathname + location.search, location.origin);
  address.searchParams.set("fragment", "1");

  let isAsking = false;
  let timer = 0;
  let problem = "";
  let seen;

  function remember() {
    const { time, word } = document.getElementById("page").dataset;
    seen = { time, word, at: Date.now() };
  }

  // Change what differs and leave the rest alone: focus, opened details, selection, scroll.
  function morph(old, fresh) {
    if (old.nodeType !== Node.ELEMENT_NODE) {
      if (old.nodeValue !== fresh.nodeValue) old.nodeValue = fresh.nodeValue;
      return;
    }
    for (const { name } of [...old.attributes]) {
      if (name !== "open" && !fresh.hasAttribute(name)) old.removeAttribute(name);
    }
    for (const { name, value } of fresh.attributes) {
      if (old.getAttribute(name) !== value) old.setAttribute(name, value);
    }
    morphChildren(old, fresh);
  }

  function morphChildren(old, fresh) {
    const wanted = new Set([...fresh.children].map((child) => child.id));
    for (const child of [...old.children]) {
      if (child.id && !wanted.has(child.id)) child.remove();
    }
    let next = old.firstChild;
    for (const child of fresh.childNodes) {
      const known = child.id
        ? [...old.children].find((one) => one.id === child.id)
        : next && !next.id && next.nodeName === child.nodeName && next;
      if (known) {
        if (known === next) next = next.nextSibling;
        else old.insertBefore(known, next);
        morph(known, child);
      } else {
        old.insertBefore(document.importNode(child, true), next);
      }
    }
    while (next) {
      const rest = next.nextSibling;
      next.remove();
      next = rest;
    }
  }

  async function ask() {
    const signal = AbortSignal.timeout(TIMEOUT_MS);
    const answer = await fetch(address, { signal, cache: "no-store" });
    if (!answer.ok) throw new Error(`it says ${answer.status}`);
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    if (!fresh.getElementById("page")) throw new Error("something else answers");
    for (const part of PARTS) morph(document.querySelector(part), fresh.querySelector(part));
  }

  async function update() {
    clearTimeout(timer);
    if (isAsking || document.hidden) return;
    isAsking = true;
    try {
      await ask();
      problem = "";
      remember();
    } catch (error) {
      // Of a connection that failed a browser tells nothing that would help.
      problem = error.name === "Error" ? error.message : "no answer";
    }
    isAsking = false;
    tell();
    timer = setTimeout(update, EVERY_MS);
  }

  function ago() {
    const seconds = Math.round((Date.now() - seen.at) / 1000);
    return seconds < 120 ? `${seconds} s` : `${Math.round(seconds / 60)} min`;
  }

  // The word in large type must not go on saying what nobody knows any more.
  function tell() {
    document.body.classList.toggle("lost", problem !== "");
    banner.hidden = problem === "";
    if (!problem) return;
    const word = document.getElementById("word");
    if (word.textContent !== "no answer") word.textContent = "no answer";
    document.querySelector("h1 use").setAttribute("href", "#unclear");
    document.getElementById("reason").textContent = `it was ${seen.word} when last seen`;
    document.title = `no answer · ${document.title.replace(/^.*? · /, "")}`;
    const why = problem === "no answer" ? "" : ` (${problem})`;
    banner.textContent = `No answer for ${ago()}${why}; last seen ${seen.time}, ${seen.word}.`;
  }

  remember();
  setInterval(() => problem && tell(), 1000);
  document.addEventListener("visibilitychange", update);
  timer = setTimeout(update, EVERY_MS);
})();
