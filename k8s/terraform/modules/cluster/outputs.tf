output "name" {
  description = "Name of the cluster."
  value       = google_container_cluster.this.name
}

output "id" {
  description = "Id of the cluster; pools are made in it."
  value       = google_container_cluster.this.id
}
