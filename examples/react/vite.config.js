import react from "@vitejs/plugin-react";
import { defineConfig } from "vite";

// In development the page and the service have one origin, so that the service needs no CORS setting.
const service = process.env.EDGESAM_URL ?? "http://127.0.0.1:8000";
const proxy = { "/edgesam": { target: service, rewrite: (path) => path.replace(/^\/edgesam/, "") } };

export default defineConfig({ plugins: [react()], server: { proxy }, preview: { proxy } });
