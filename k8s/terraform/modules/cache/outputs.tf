# The password (auth_string) is no output. It is in the state all the same, as Memorystore makes
# it itself: read it with gcloud, and guard the bucket of the state as what it is.

output "host" {
  description = "Private address of the cache."
  value       = google_redis_instance.this.host
}

output "port" {
  description = "Port on which TLS is spoken."
  value       = google_redis_instance.this.port
}

output "server_ca" {
  description = "Authorities (PEM) of the server's certificate, the newest last."
  value       = join("\n", google_redis_instance.this.server_ca_certs[*].cert)
}
