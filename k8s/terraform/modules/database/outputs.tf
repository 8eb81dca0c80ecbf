output "instance_name" {
  description = "Name of the instance, for gcloud."
  value       = google_sql_database_instance.this.name
}

output "host" {
  description = "Private address of the database."
  value       = google_sql_database_instance.this.private_ip_address
}

output "database_name" {
  description = "Name of the database in the instance."
  value       = google_sql_database.strongroom.name
}

output "server_ca" {
  description = "Authority (PEM) of the server's certificate, for sslrootcert."
  value       = google_sql_database_instance.this.server_ca_cert[0].cert
}
